"""Tasks from templates and from data files. The names in `__all__` are public.

They are imported on first use, because the templates of an environment need few of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envgym.tasksets.labelled_rows import Example, load_rows
    from envgym.tasksets.labelled_tasks import label_template, question_template
    from envgym.tasksets.toolrl_rows import row_template, rows_from
    from envgym.tasksets.toolrl_variants import irrelevant_rows

_HOMES = {
    "envgym.tasksets.labelled_rows": ("Example", "load_rows"),
    "envgym.tasksets.labelled_tasks": ("label_template", "question_template"),
    "envgym.tasksets.toolrl_rows": ("row_template", "rows_from"),
    "envgym.tasksets.toolrl_variants": ("irrelevant_rows",),
}
_LAZY = {name: home for home, names in _HOMES.items() for name in names}

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
    if name not in _LAZY:
        raise AttributeError(f"module 'envgym.tasksets' has no attribute '{name}'")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
