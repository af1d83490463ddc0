"""Scores as pure functions of answers and truths: no Evidence, no environment, no model. `envgym/rewards/` makes parts of them."""
