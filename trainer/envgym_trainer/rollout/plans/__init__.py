"""Training plans: which tasks a step plays and which groups it learns from."""
