"""SQuAD 1.1 and 2.0 JSON: articles with paragraphs and questions.

`answer_start` and `plausible_answers` are ignored, because the metrics only compare texts. The
official files are one long line, so errors name a position such as `dev.json:
data[0].paragraphs[2].qas[1]`.

Source: https://rajpurkar.github.io/SQuAD-explorer/ (JSON format).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from envgym.errors import SpecError
from envgym.tasksets.examples import Example, read_text

ENDINGS = ()


def read(path: Path) -> Iterator[Example]:
    """Yield every question of a file.

    Raises:
        SpecError: If the format is wrong, an id is repeated, or a question has neither an answer
            nor `is_impossible`.
    """
    text = read_text(path)
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        raise SpecError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    except (RecursionError, ValueError):
        raise SpecError(f"{path}: nested too deeply, or an integer is too long") from None
    seen: dict[str, str] = {}
    for article, at_article in _items(whole, "data", f"{path}: "):
        for paragraph, at_paragraph in _items(article, "paragraphs", f"{at_article}."):
            context = _text(paragraph, "context", at_paragraph)
            for question, place in _items(paragraph, "qas", f"{at_paragraph}."):
                id_ = _text(question, "id", place)
                if id_ in seen:
                    raise SpecError(f"{place}: id '{id_}' is already used at {seen[id_]}")
                seen[id_] = place
                texts = {"context": context, "question": _text(question, "question", place)}
                yield Example(texts, place, answers=_answers(question, place))


def _answers(question: dict[str, Any], place: str) -> tuple[str, ...]:
    found = [_text(answer, "text", at) for answer, at in _items(question, "answers", f"{place}.")]
    impossible = question.get("is_impossible", False)
    if not isinstance(impossible, bool):
        raise SpecError(f"{place}: is_impossible must be true or false, got {impossible!r}")
    if impossible and found:
        raise SpecError(f"{place}: is_impossible is true, but there is an answer: {found[0]!r}")
    if not impossible and not found:
        raise SpecError(
            f"{place}: has no answer; SQuAD 2.0 marks an unanswerable question "
            'with "is_impossible": true'
        )
    return tuple(dict.fromkeys(found))


def _items(holder: Any, key: str, before: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the objects in the list at a key, each with its position."""
    items = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(items, list):
        raise SpecError(
            f"{before}{key}: must be a list, as in SQuAD's JSON, got {type(items).__name__}"
        )
    for number, item in enumerate(items):
        place = f"{before}{key}[{number}]"
        if not isinstance(item, dict):
            raise SpecError(f"{place}: must be an object, got {type(item).__name__}")
        yield item, place


def _text(holder: dict[str, Any], key: str, place: str) -> str:
    value = holder.get(key)
    if not isinstance(value, str) or not value.strip():
        raise SpecError(f"{place}: {key} must be a non-empty text, got {value!r}")
    return value
