"""envgym: from your tools to your adapter."""
