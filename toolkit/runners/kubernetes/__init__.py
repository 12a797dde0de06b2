"""A recipe's steps as Jobs of a cluster on a store that lies on a volume of its: planned here, made and sealed there."""
