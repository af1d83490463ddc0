"""How texts are scored: pure functions over text and truth, without an environment. `envgym/rewards/` makes parts of them."""
