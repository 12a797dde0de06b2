"""How fast an endpoint answers: streams at once, each timed piece by piece, the thinking apart from the answer."""
