"""Write a dialect of tool calls as Jinja macros, for chat templates of servers.

The macros are derived from texts that the dialect writes for known calls, and compared with it on
further calls. A dialect whose form is neither JSON, nor one tag for each argument, nor Python has
no macros.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from envgym.dialects import write_calls
from envgym.dialects.literals import write_python_call
from envgym.errors import UsageError
from envgym.messages import ToolCall

NAME, OTHER = "zqname", "zqother"
ONE = ToolCall(NAME, {"zqa": "zqv"})
TWO = ToolCall(NAME, {"zqa": "zqv", "zqb": "zqw"})
NONE = ToolCall(NAME, {})
SECOND = ToolCall(OTHER, {"zqa": "zqx"})
CHECKED = [
    NONE,
    ONE,
    TWO,
    ToolCall("look_up", {"id": "A1", "count": 3, "ratio": 0.5, "deep": {"a": [1, "é", None]}}),
    ToolCall("say", {"text": 'two\nlines, "quoted" <b> & \\ 😀', "yes": True, "no": False}),
    ToolCall(
        "f", {"items": [], "empty": "", "none": None, "number": "12", "list": ["a", {"b": 2}]}
    ),
]
"""Calls on which the macros are compared with the dialect."""

PYTHON = """
{%- macro envgym_value(value) -%}
{%- if value is string -%}{{ value | tojson }}
{%- elif value is mapping -%}
{{ '{' }}{%- for key, item in value.items() -%}
{{ '' if loop.first else ', ' }}{{ key | tojson }}: {{ envgym_value(item) }}
{%- endfor -%}{{ '}' }}
{%- elif value is iterable -%}
[{%- for item in value -%}{{ '' if loop.first else ', ' }}{{ envgym_value(item) }}{%- endfor -%}]
{%- else -%}{{ value }}{%- endif -%}
{%- endmacro -%}
{%- macro envgym_python(name, arguments) -%}
{{ name }}(
{%- for key, value in arguments.items() -%}
{{ '' if loop.first else ', ' }}{{ key }}={{ envgym_value(value) }}
{%- endfor -%})
{%- endmacro -%}
""".strip()

JSON_FORMS = (
    ('{"name": "%s", "arguments": %s}', None),
    ('{"name": "%s", "parameters": %s}', None),
    ('{"name":"%s","arguments":%s}', (",", ":")),
)
"""Objects that a wrapper of several calls may hold, with the separators of their arguments."""


def call_macros(dialect: str) -> str | None:
    """Return the macro `envgym_calls(calls)` that writes calls as a dialect does, or None.

    Args:
        dialect: Name of a dialect. `calls` are those of a message in OpenAI's form.
    """
    try:
        single = _single(dialect)
        several = _several(dialect) if single else None
    except UsageError:
        return None
    if not single or not several:
        return None
    macros = f"""{PYTHON}
{{%- macro envgym_call(name, arguments) -%}}
{single}
{{%- endmacro -%}}
{several}"""
    return macros if _agree(macros, dialect) else None


def literal(text: str) -> str:
    """Return a text as a Jinja expression that writes it."""
    return "{{ " + json.dumps(text) + " }}" if text else ""


def _single(dialect: str) -> str | None:
    """Return the body of a macro that writes one call from `name` and `arguments`."""
    text = write_calls([ONE], dialect)
    if (python := write_python_call(ONE)) in text:
        return _filled(text, {python: "{{ envgym_python(name, arguments) }}"})
    for separators in (None, (",", ":")):
        written = json.dumps(ONE.arguments, separators=separators)
        if written in text:
            return _filled(text, {written: _tojson(separators), NAME: "{{ name }}"})
    return _by_argument(dialect, text)


def _by_argument(dialect: str, text: str) -> str | None:
    """Return the body of a macro that writes each argument on its own."""
    bare, double = (write_calls([call], dialect) for call in (NONE, TWO))
    start = next((i for i, (a, b) in enumerate(zip(bare, text, strict=False)) if a != b), len(bare))
    end = len(bare) - start
    argument = text[start : len(text) - end]
    whole = double[start : len(double) - end]
    last = argument.replace("zqa", "zqb").replace("zqv", "zqw")
    if not text.endswith(bare[start:]) or not whole.startswith(argument):
        return None
    between = whole[len(argument) : len(whole) - len(last)]
    quoted = '"zqv"' in argument
    value = (
        "{{ value | tojson }}" if quoted else "{{ value if value is string else value | tojson }}"
    )
    body = _filled(argument, {"zqa": "{{ key }}", '"zqv"' if quoted else "zqv": value})
    separator = "{{ '' if loop.first else " + json.dumps(between) + " }}" if between else ""
    loop = f"{{%- for key, value in arguments.items() -%}}{separator}{body}{{%- endfor -%}}"
    head, tail = (_filled(part, {NAME: "{{ name }}"}) for part in (bare[:start], bare[start:]))
    return f"{head}{loop}{tail}"


def _several(dialect: str) -> str | None:
    """Return the macro that writes all calls of a message."""
    text = write_calls([ONE, SECOND], dialect)
    for write, expression in _units(dialect):
        first, second = write(ONE), write(SECOND)
        if first not in text or second not in text:
            continue
        start, end = text.index(first), text.rindex(second)
        between = text[start + len(first) : end]
        wrapped = (
            literal(text[:start])
            + "{%- for call in calls -%}"
            + ("{{ '' if loop.first else " + json.dumps(between) + " }}" if between else "")
            + expression
            + "{%- endfor -%}"
            + literal(text[end + len(second) :])
        )
        return (
            "{%- macro envgym_calls(calls) -%}\n"
            "{%- if calls | length == 1 -%}"
            "{{ envgym_call(calls[0].function.name, calls[0].function.arguments) }}"
            f"{{%- else -%}}{wrapped}{{%- endif -%}}\n"
            "{%- endmacro -%}"
        )
    return None


def _units(dialect: str) -> list[tuple[Callable[[ToolCall], str], str]]:
    """Return forms of one call inside of several, as a function and as Jinja."""

    def single(call: ToolCall) -> str:
        return write_calls([call], dialect)

    units: list[tuple[Callable[[ToolCall], str], str]] = [
        (single, "{{ envgym_call(call.function.name, call.function.arguments) }}"),
        (
            write_python_call,
            "{{ envgym_python(call.function.name, call.function.arguments) }}",
        ),
    ]
    for form, separators in JSON_FORMS:

        def write(call: ToolCall, form: str = form, separators: Any = separators) -> str:
            return form % (call.name, json.dumps(call.arguments, separators=separators))

        head, middle, tail = form.split("%s")
        arguments = _tojson(separators).replace("arguments", "call.function.arguments")
        units.append(
            (
                write,
                f"{literal(head)}{{{{ call.function.name }}}}{literal(middle)}{arguments}"
                f"{literal(tail)}",
            )
        )
    return units


def _tojson(separators: tuple[str, str] | None) -> str:
    if separators is None:
        return "{{ arguments | tojson }}"
    return "{{ arguments | tojson(separators=(',', ':')) }}"


def _filled(text: str, places: dict[str, str]) -> str:
    """Return Jinja that writes a text with expressions in place of some of its parts."""
    for part, expression in places.items():
        if part in text:
            before, after = text.split(part, 1)
            return _filled(before, places) + expression + _filled(after, places)
    return literal(text)


def _agree(macros: str, dialect: str) -> bool:
    """Return whether the macros write the same texts as the dialect."""
    from transformers.utils.chat_template_utils import render_jinja_template

    template = macros + "{%- for m in messages -%}{{ envgym_calls(m.tool_calls) }}{%- endfor -%}"
    for calls in [*([call] for call in CHECKED), CHECKED[:2], CHECKED[2:], [SECOND, ONE, TWO]]:
        message = {"role": "assistant", "tool_calls": [_plain(call) for call in calls]}
        rendered, _ = render_jinja_template(conversations=[[message]], chat_template=template)
        if rendered[0] != write_calls(calls, dialect):
            return False
    return True


def _plain(call: ToolCall) -> dict[str, Any]:
    return {"type": "function", "function": call.to_dict()}
