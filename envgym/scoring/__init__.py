"""Pure scoring functions: how near one thing is to another. They know no episode; `envgym/rewards/` makes parts of them."""
