"""Policy-gradient mathematics: advantages, losses, credit, attribution."""
