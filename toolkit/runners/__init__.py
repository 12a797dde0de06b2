"""Places where a step can run; each takes the same programs and the same args.json."""
