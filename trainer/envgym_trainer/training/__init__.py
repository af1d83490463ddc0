"""A training run from start to end: build, loop, evaluation, checkpoints, resume."""
