"""Strict parsers for the values of a tool call, from JSON and from Python syntax trees.

Allowed: strings, finite numbers, booleans, null, lists and objects with string keys, at most
`MAX_DEPTH` levels deep. Rejected with a message for the model: duplicate keys, NaN and Infinity,
half surrogate pairs, and expressions that need evaluation. RecursionError, MemoryError and
SyntaxError never reach the caller.
"""

from __future__ import annotations

import ast
import contextlib
import json
import keyword
import math
import re
import threading
from collections.abc import Iterable
from typing import Any

from envgym.errors import UsageError
from envgym.messages import ToolCall

MAX_DEPTH = 32
"""Maximum nesting of lists and objects in one argument. The limit of json and ast is the recursion
limit."""

DOTTED_NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"

_ONE_PARSER = threading.RLock()
_SPACE = re.compile(r"\s*")
# Python only emits a warning for these escapes, and a warning cannot be caught per thread.
_BAD_ESCAPE = re.compile(r"\\(?:([^\n\r\\'\"abfnrtvx0-7NuU])|[4-7][0-7]{2}|.)", re.DOTALL)
_KEYWORD_ARGUMENT = re.compile(rf"[(,]\s*({'|'.join(keyword.kwlist)})\s*=(?!=)")


class MalformedCall(ValueError):
    """Attempted call that cannot be parsed. The message is for the model."""


def excerpt(text: str, length: int = 40) -> str:
    """Return the beginning of a text as one line."""
    line = " ".join(text[: 4 * length].split())
    return line if len(line) <= length else line[: length - 3] + "..."


# -- JSON -----------------------------------------------------------------------------------------


def read_json(text: str, start: int = 0) -> tuple[Any, int]:
    """Parse the JSON value at `start`; leading white space is skipped.

    Returns:
        The value and the index after it and the white space that follows.

    Raises:
        MalformedCall: If there is no valid JSON value.
    """
    try:
        value, end = _DECODER.raw_decode(text, _skip_space(text, start))
    except json.JSONDecodeError as problem:
        raise MalformedCall(
            f"the call is not valid JSON: {problem.msg} at character {problem.pos - start + 1}"
        ) from None
    except RecursionError:
        raise MalformedCall(f"the call is nested more than {MAX_DEPTH} levels deep") from None
    except MalformedCall:
        raise
    except ValueError:  # Python refuses to convert an integer with more than 4300 digits
        raise MalformedCall("the call holds a number that is too large") from None
    check_value(value)
    return value, _skip_space(text, end)


def check_value(value: Any) -> None:
    """Raise MalformedCall for infinite numbers, half surrogate pairs and too deep nesting."""
    level = [value]
    for _ in range(MAX_DEPTH + 3):  # a list of calls, the call and its arguments are 3 levels
        for item in level:
            _check_scalar(item)
        level = [part for item in level for part in _parts(item)]
        if not level:
            return
    raise MalformedCall(f"the call is nested more than {MAX_DEPTH} levels deep")


def _check_scalar(item: Any) -> None:
    if isinstance(item, float) and not math.isfinite(item):
        raise MalformedCall("the call holds a number that is too large")
    if isinstance(item, str) and not _is_unicode(item):
        raise MalformedCall("the call holds half a surrogate pair; write the character itself")


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return (*value.keys(), *value.values())
    return value if isinstance(value, list) else ()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _skip_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) < len(pairs):
        _refuse_repeated([key for key, _ in pairs])
    return plain


def _refuse_repeated(keys: list[str]) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise MalformedCall(f"'{excerpt(key)}' stands twice in one call or object")
        seen.add(key)


def _refuse_constant(name: str) -> Any:
    raise MalformedCall(f"{name} is not a JSON value")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)


# -- Python ---------------------------------------------------------------------------------------


def read_python_calls(text: str, *, json_words: bool = False) -> list[ToolCall]:
    """Parse calls such as `f(a=1)`, one per line, or `[f(a=1), g()]`. No code is evaluated.

    Args:
        text: The calls and nothing else.
        json_words: Also allow `true`, `false` and `null` as values.

    Raises:
        MalformedCall: If the text contains anything but calls with literal keyword arguments.
    """
    try:
        tree = _parse(text)
        if json_words:
            tree = _JsonWords().visit(tree)
        calls = [_call(node) for node in _call_nodes(tree)]
    except (RecursionError, MemoryError):
        raise MalformedCall(f"the call is nested more than {MAX_DEPTH} levels deep") from None
    for call in calls:
        check_value(call.arguments)
    return calls


def read_python_value(text: str) -> Any:
    """Parse one Python literal, in which `true`, `false` and `null` are allowed.

    Raises:
        MalformedCall: If the text is anything else.
    """
    return read_python_calls(f"value(value=(\n{text}\n))", json_words=True)[0].arguments["value"]


def write_python_call(call: ToolCall) -> str:
    """Return the call as one line. A keyword as argument name is written as `**{"from": ...}`.

    Raises:
        UsageError: If Python syntax cannot express the tool's name or a value.
    """
    if not re.fullmatch(DOTTED_NAME, call.name) or any(
        map(keyword.iskeyword, call.name.split("."))
    ):
        raise UsageError(
            f"a tool named '{call.name}' cannot be called in the pythonic dialect; "
            "rename it or use another dialect"
        )
    plain = {name: value for name, value in call.arguments.items() if _is_plain_name(name)}
    odd = {name: value for name, value in call.arguments.items() if name not in plain}
    written = [f"{name}={_write(value)}" for name, value in plain.items()] + (
        [f"**{_write(odd)}"] if odd else []
    )
    return f"{call.name}({', '.join(written)})"


def _is_plain_name(name: str) -> bool:
    # Python normalizes identifiers to NFKC, which may change a name that is not ASCII.
    return name.isidentifier() and name.isascii() and not keyword.iskeyword(name)


def _write(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # JSON escapes are valid Python escapes
    if isinstance(value, list):
        return f"[{', '.join(map(_write, value))}]"
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{_write(key)}: {_write(item)}" for key, item in value.items()) + "}"
        )
    if (
        value is None
        or isinstance(value, bool | int)
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return repr(value)
    raise UsageError(f"{value!r} cannot be written as an argument of a call")


def _parse(text: str) -> ast.Module:
    for escape in _BAD_ESCAPE.finditer(text):
        if escape.group(1) or (escape.group()[1] in "4567" and len(escape.group()) == 4):
            raise MalformedCall(
                f"{escape.group()} is no escape in Python; write a backslash as \\\\"
            )
    try:
        return _syntax_tree(text)
    except SyntaxError as problem:
        raise MalformedCall(_syntax_message(text, problem)) from None
    except ValueError:  # NUL bytes or half surrogate pairs
        raise MalformedCall("the call holds a character that Python refuses") from None


def _syntax_tree(text: str) -> ast.Module:
    """Call `ast.parse` in one thread at a time.

    CPython up to 3.12 keeps the recursion depth of the tree in one place for all threads. Two
    concurrent calls can raise `SystemError: AST constructor recursion depth mismatch`. The lock
    serializes envgym's threads; the retry handles all other threads.
    """
    for _ in range(100):
        with _ONE_PARSER, contextlib.suppress(SystemError):
            return ast.parse(text)
    raise RuntimeError("Python's parser was disturbed by other threads a hundred times in a row")


def _syntax_message(text: str, problem: SyntaxError) -> str:
    if found := _KEYWORD_ARGUMENT.search(text):
        name = found.group(1)
        return f'{name} is a Python keyword; write the argument as **{{"{name}": ...}}'
    if (
        problem.lineno
        and problem.lineno > 1
        and not re.match(rf"\s*{DOTTED_NAME}\(", problem.text or "")
    ):
        return "write only the call, without any other text"
    where = f" at line {problem.lineno}, column {problem.offset}" if problem.lineno else ""
    return f"the call is not valid Python: {excerpt(problem.msg, 80)}{where}"


class _JsonWords(ast.NodeTransformer):
    """Replace the names `true`, `false` and `null` by their values."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        words = {"true": True, "false": False, "null": None}
        return ast.Constant(words[node.id]) if node.id in words else node


def _call_nodes(module: ast.Module) -> Iterable[ast.Call]:
    for statement in module.body:
        value = statement.value if isinstance(statement, ast.Expr) else None
        for node in value.elts if isinstance(value, ast.List) else [value]:
            if not isinstance(node, ast.Call):
                raise MalformedCall(
                    'write only calls such as look_up(id="A1"), without any other text'
                )
            yield node


def _call(node: ast.Call) -> ToolCall:
    name = _dotted(node.func)
    if node.args:
        raise MalformedCall(f"name every argument of {name}: {name}(argument=value)")
    pairs: list[tuple[str, Any]] = []
    for argument in node.keywords:
        value = _literal(argument.value)
        if argument.arg is not None:
            pairs.append((argument.arg, value))
        elif isinstance(value, dict):
            pairs += value.items()
        else:
            raise MalformedCall("after ** must come an object")
    return ToolCall(name, _unique_keys(pairs))


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    raise MalformedCall("a call must start with the name of a tool")


def _literal(node: ast.expr | None) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool | None):
        return node.value
    if (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, ast.USub | ast.UAdd)
        and _is_number(node.operand)
    ):
        number = _literal(node.operand)
        return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return _unique_keys(
            [(_key(key), _literal(item)) for key, item in zip(node.keys, node.values, strict=True)]
        )
    raise MalformedCall(_not_literal(node))


def _is_number(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
    )


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise MalformedCall("the keys of an object must be strings")


def _not_literal(node: ast.expr | None) -> str:
    json_words = {"true": "True", "false": "False", "null": "None"}
    if isinstance(node, ast.Name) and node.id in json_words:
        return f"write {json_words[node.id]} instead of {node.id}"
    if isinstance(node, ast.Name):
        return f'{excerpt(node.id)} has no value; write a text in quotes: "{excerpt(node.id)}"'
    if isinstance(node, ast.Tuple | ast.Set):
        return "write a list as [a, b]"
    return (
        "arguments must be plain values: text in quotes, numbers, True, False, None, lists, objects"
    )
