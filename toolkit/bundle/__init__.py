"""One archive that carries a release over an air gap: recipe, sealed directories, chart, compose and images, each byte named in a manifest."""
