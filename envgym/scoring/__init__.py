"""Scores as pure functions of texts and numbers; the reward parts of `envgym/rewards/` stand on them."""
