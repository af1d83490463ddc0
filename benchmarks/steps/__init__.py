"""One GRPO step on forced, equal work, by envgym and by TRL. See `benchmarks/step_vs_trl.py`."""
