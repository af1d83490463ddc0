"""Task sets: tasks from templates, labelled rows, ToolRL rows and recorded dialogues.

The public names are imported on first use, so that the import is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envgym.tasksets.examples import Example
    from envgym.tasksets.labelled_rows import load_rows
    from envgym.tasksets.labelled_tasks import label_template, question_template
    from envgym.tasksets.toolrl_rows import row_template, rows_from
    from envgym.tasksets.toolrl_variants import irrelevant_rows

_HOMES = {
    "Example": "examples",
    "irrelevant_rows": "toolrl_variants",
    "label_template": "labelled_tasks",
    "load_rows": "labelled_rows",
    "question_template": "labelled_tasks",
    "row_template": "toolrl_rows",
    "rows_from": "toolrl_rows",
}

__all__ = [
    "Example",
    "irrelevant_rows",
    "label_template",
    "load_rows",
    "question_template",
    "row_template",
    "rows_from",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'envgym.tasksets' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
