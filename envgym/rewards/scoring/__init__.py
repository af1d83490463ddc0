"""Scores as pure functions of answers and truths; `envgym/rewards/` makes reward parts of them."""
