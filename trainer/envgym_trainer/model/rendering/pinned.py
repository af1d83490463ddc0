"""Make a chat template a function of the conversation alone: pinned date, default variables."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

_AFTER_USER = re.compile(r"loop\.index0 > ns\.\w*(?:last|query)\w*")
_ONLY_LAST = re.compile(r"loop\.last or \(not loop\.last and reasoning_content\)")
_CUT = re.compile(r"\.split\((['\"])</think>\1\)\[-1\]")
_NOW = re.compile(r"strftime_now\(\s*(?P<quote>['\"])(?P<format>.*?)(?P=quote)\s*\)")


def with_date(template: str, clock: datetime | None) -> str:
    """Return a template in which `strftime_now` is the start of the environment's clock.

    Args:
        template: Jinja template.
        clock: Start of the clock. None keeps the template.
    """
    if clock is None:
        return template
    return _NOW.sub(lambda found: json.dumps(clock.strftime(found["format"])), template)


def with_reasoning(template: str) -> str:
    """Return a template that keeps the reasoning of earlier turns, where it drops it.

    Known are conditions on the last message of the user (Qwen3 and later) and texts cut after
    `</think>`. Whether that was enough has to be probed.
    """
    kept = _AFTER_USER.sub("true", template)
    if kept != template:
        return _ONLY_LAST.sub("true", kept)
    return _CUT.sub("", template)


def has_date(template: str) -> bool:
    """Return whether a template writes the current date."""
    return bool(_NOW.search(template))


def with_variables(template: str, variables: Mapping[str, Any]) -> str:
    """Return a template in which variables have these values, unless a request sets others."""
    lines = [
        f"{{%- set {name} = {name} if {name} is defined else {_jinja(value)} -%}}\n"
        for name, value in variables.items()
    ]
    return "".join(lines) + template


def _jinja(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return json.dumps(value)
