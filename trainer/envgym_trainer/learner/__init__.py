"""The learner: batches with prefix trees, logprobs, updates, controllers."""
