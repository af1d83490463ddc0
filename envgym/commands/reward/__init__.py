"""Score answers in a file with an environment's reward."""
