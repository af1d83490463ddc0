"""Check the messages and tools of a chat request, and bring them into the form of chat templates.

Templates get text contents, arguments of tool calls as objects, and the name of the tool that a
tool message answers. Not supported: images, audio, files, and the deprecated `functions`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from envgym_trainer.serving.api_errors import ApiError, invalid, unsupported
from envgym_trainer.serving.json_body import missing, read_json_text

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Role of a request -> role of the chat template. `tool` is read on its own."""
TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
FIELDS = {
    "assistant": {"tool_calls", "reasoning_content", "reasoning"},
    "tool": {"tool_call_id"},
}
"""Fields of messages beside role, content and name."""
IGNORED = {"refusal", "annotations", "audio", "function_call"}
"""Fields that clients send back from an earlier answer. They must be empty."""


def read_messages(given: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the messages of a request as a chat template reads them.

    Raises:
        ApiError: If a message has a wrong field, or answers a call that was not made.
    """
    if not given:
        raise invalid("'messages' is empty. Send at least one message.", "messages")
    open_calls: dict[str, str] = {}
    found = []
    for index, plain in enumerate(given):
        where = f"messages[{index}]"
        if not isinstance(plain, Mapping):
            raise invalid(f"'{where}' must be an object.", where, "invalid_type")
        role = plain.get("role")
        if role == "tool":
            found.append(_tool_message(plain, open_calls, where))
            continue
        message = _message(plain, role, where)
        if role == "assistant":
            open_calls = {
                call["id"]: call["function"]["name"] for call in message.get("tool_calls", ())
            }
        found.append(message)
    return found


def read_tools(given: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the tools of a request, unchanged except for `strict: false`, which is removed.

    Raises:
        ApiError: If a tool is no function, has a wrong field, or occurs twice.
    """
    tools: dict[str, dict[str, Any]] = {}
    for index, plain in enumerate(given):
        where = f"tools[{index}]"
        if not isinstance(plain, Mapping):
            raise invalid(f"'{where}' must be an object.", where, "invalid_type")
        if plain.get("type") != "function":
            raise unsupported(f"{where}.type", "only tools of type 'function' are supported.")
        function = _function(plain.get("function"), f"{where}.function")
        name = function["name"]
        if name in tools:
            raise invalid(f"'{where}': the tool '{name}' occurs twice.", f"{where}.function.name")
        tools[name] = {**plain, "function": function}
    return list(tools.values())


def _function(function: Any, where: str) -> dict[str, Any]:
    if not isinstance(function, Mapping):
        raise missing(where)
    name = function.get("name")
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        raise invalid(
            f"'{where}.name' must have 1 to 128 letters, digits, '_', '-' or '.'.", f"{where}.name"
        )
    if not isinstance(function.get("description") or "", str):
        raise invalid(f"'{where}.description' must be a text.", f"{where}.description")
    if not isinstance(function.get("parameters") or {}, Mapping):
        raise invalid(f"'{where}.parameters' must be a JSON schema.", f"{where}.parameters")
    if function.get("strict"):
        raise unsupported(f"{where}.strict", "calls are not constrained to their schema. Omit it.")
    return {key: value for key, value in function.items() if key != "strict"}


def _message(plain: Mapping[str, Any], role: Any, where: str) -> dict[str, Any]:
    if not isinstance(role, str) or role not in ROLES:
        allowed = ", ".join([*ROLES, "tool"])
        raise invalid(f"'{where}.role' must be one of {allowed}.", f"{where}.role")
    _check_fields(plain, FIELDS.get(role, set()), where)
    calls = plain.get("tool_calls") or []
    content = plain.get("content")
    if content is None and role != "assistant":
        raise missing(f"{where}.content")
    message: dict[str, Any] = {
        "role": ROLES[role],
        "content": _text(content, f"{where}.content") if content is not None else "",
    }
    if calls:
        message["tool_calls"] = _calls(calls, f"{where}.tool_calls")
    reasoning = plain.get("reasoning_content") or plain.get("reasoning")
    if reasoning is not None:
        message["reasoning_content"] = _text(reasoning, f"{where}.reasoning_content")
    return message


def _tool_message(
    plain: Mapping[str, Any], open_calls: Mapping[str, str], where: str
) -> dict[str, Any]:
    """Return a tool message with the name of its tool.

    An answer of the model that could not be parsed has no calls. The tool message after it, which
    reports that, has no id.
    """
    _check_fields(plain, FIELDS["tool"], where)
    message = {"role": "tool", "content": _text(plain.get("content"), f"{where}.content")}
    call_id = plain.get("tool_call_id")
    if open_calls:
        if call_id is None:
            raise missing(f"{where}.tool_call_id")
        if not isinstance(call_id, str) or call_id not in open_calls:
            raise invalid(
                f"'{where}.tool_call_id' is the id of no call in the assistant message before it.",
                f"{where}.tool_call_id",
            )
        return message | {"tool_call_id": call_id, "name": open_calls[call_id]}
    name = plain.get("name")
    return message | ({"name": name} if isinstance(name, str) else {})


def _check_fields(plain: Mapping[str, Any], allowed: set[str], where: str) -> None:
    for name, value in plain.items():
        if name in ("role", "content") or name in allowed:
            continue
        if name == "name":
            if not isinstance(value, str | None):
                raise invalid(f"'{where}.name' must be a text.", f"{where}.name")
        elif value not in (None, [], {}, ""):
            param = f"{where}.{name[:100]}"
            if name in IGNORED:
                raise unsupported(param, "this field must be empty.")
            raise invalid(f"unknown field '{param}'.", param, "unknown_parameter")


def _text(content: Any, where: str) -> str:
    """Return the text of a content: a string, or a list of text parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(f"'{where}' must be a text or a list of text parts.", where, "invalid_type")
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text":
            raise unsupported(f"{where}[{index}]", "only parts of type 'text' are supported.")
        if not isinstance(part.get("text"), str):
            raise invalid(f"'{where}[{index}].text' must be a text.", f"{where}[{index}].text")
        texts.append(part["text"])
    return "".join(texts)


def _calls(given: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(given, list):
        raise invalid(f"'{where}' must be a list.", where, "invalid_type")
    calls = [_call(call, f"{where}[{index}]") for index, call in enumerate(given)]
    if len({call["id"] for call in calls}) < len(calls):
        raise invalid(f"'{where}': two calls have the same id.", where)
    return calls


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise missing(f"{where}.function")
    if not isinstance(call.get("id"), str):
        raise missing(f"{where}.id")
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise missing(f"{where}.function.name")
    arguments = _arguments(function.get("arguments"), f"{where}.function.arguments")
    return {
        "id": call["id"],
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _arguments(given: Any, where: str) -> dict[str, Any]:
    """Return the arguments of a call: an object, or its JSON. Some clients send it empty."""
    if isinstance(given, str):
        try:
            given = read_json_text(given or "{}")
        except ValueError:
            given = None
    if not isinstance(given, Mapping):
        raise _no_arguments(where)
    return dict(given)


def _no_arguments(where: str) -> ApiError:
    return invalid(
        f"'{where}' must be the JSON of an object. An answer whose call cannot be parsed is "
        "returned as content; send it back as content.",
        where,
    )
