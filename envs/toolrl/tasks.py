"""Single steps with a written truth, from `rows.jsonl`.

The three templates use the rows unchanged, with random tool names, and without the required tool.
"""

from __future__ import annotations

from pathlib import Path

from envgym.tasksets import irrelevant_rows, row_template, rows_from

ROWS = rows_from(Path(__file__).parent / "rows.jsonl")

single = row_template("single", ROWS, level="L0", val=0.2, test=0.2)
masked = row_template("masked", ROWS, level="L1", masked=True, val=0.2, test=0.2)
irrelevant = row_template("irrelevant", irrelevant_rows(ROWS), level="L2", val=0.2, test=0.2)
