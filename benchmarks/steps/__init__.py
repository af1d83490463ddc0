"""One GRPO step on forced, equal work, by envgym and by TRL; `step_vs_trl.py` runs both and compares."""
