"""Secrets that stand in a YAML itself: by the name of their key, their place or their form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

from envgym.secrets.names import is_secret_name
from envgym.secrets.references import has_reference

HARMLESS_HEADERS = frozenset(
    {
        *("accept", "accept-charset", "accept-encoding", "accept-language", "cache-control"),
        *("connection", "content-type", "from", "host", "origin", "prefer", "referer"),
        *("user-agent", "x-request-id", "x-session", "x-session-id"),
    }
)
"""Headers, in lower case, that hold no secret. The values of all others are hidden."""
_FORMS = re.compile(
    r"""\bsk-[\w-]{12,} | \bgh[opsur]_\w{20,} | \bgithub_pat_\w{20,} | \bglpat-[\w-]{16,}
      | \bxox[abeoprs]-[\w-]{10,} | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b | \bhf_[A-Za-z0-9]{20,}
      | \bAIza[\w-]{30,} | \beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+
      | -----BEGIN[A-Z ]*PRIVATE\ KEY-----[\s\S]*?(?:-----END[A-Z ]*-----|\Z)""",
    re.VERBOSE,
)
_FLAG = re.compile(r"(?:--?)?([\w.-]+)=(.+)", re.DOTALL)
_PLAIN_WORD = re.compile(r"[a-z]+(?:[_-][a-z]+)*|[A-Z]+(?:_[A-Z]+)*")


def literal_secrets(path: Sequence[str | int], text: str, before: object = None) -> list[str]:
    """Return the parts of a string of a YAML that are secrets.

    Args:
        path: Keys that lead to the string.
        text: The string. A string that only refers to variables has no literal secret.
        before: Preceding element of the same list, such as the option `--token` of a command.
    """
    if has_reference(text) and text.startswith("env:"):
        return []
    found = list(_by_form(text))
    if not found and not has_reference(text) and _is_secret_place(path, text, before):
        found = [text]
    if not found and (match := _FLAG.fullmatch(text)) and not has_reference(match[2]):
        found = [match[2]] if is_secret_name(match[1]) and "//" not in text else []
    return [part for part in found if part.strip()]


def _by_form(text: str) -> Iterator[str]:
    for match in _FORMS.finditer(text):
        yield match[0]
    for url in re.findall(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", text):
        try:
            parts = urlsplit(url)
        except ValueError:
            continue
        userinfo = parts.netloc.rpartition("@")[0]
        name, _, password = userinfo.partition(":")
        secret = password or name
        if secret and not has_reference(secret):
            yield secret
        for key, value in parse_qsl(parts.query):
            if is_secret_name(key) and value and not has_reference(value):
                forms = (value, quote(value), quote_plus(value), url)
                yield next(form for form in forms if form in url)


def _is_secret_place(path: Sequence[str | int], text: str, before: object) -> bool:
    names = [step for step in path if isinstance(step, str)]
    key = names[-1] if names else ""
    if isinstance(path[-1] if path else "", int):
        return isinstance(before, str) and before.startswith("-") and is_secret_name(before)
    if len(names) > 1 and names[-2] == "headers":
        return key.lower() not in HARMLESS_HEADERS and text.strip("{}") != "session"
    if not is_secret_name(key):
        return False
    # `key: price` names a column; `password: price` is a password.
    is_vague = key.lower() in ("key", "token", "pass", "auth", "signature")
    return not (is_vague and _PLAIN_WORD.fullmatch(text))


def is_recognizable(path: Sequence[str | int], text: str) -> bool:
    """Return whether a literal secret is hidden in all texts, not only in copies of the YAML.

    A header such as `X-Tenant: acme` is not copied, but its value may be an ordinary word.
    """
    names = [step for step in path if isinstance(step, str)]
    if names[-2:-1] != ["headers"] or is_secret_name(names[-1]):
        return True
    return bool(re.search(r"\d", text) and re.search(r"[A-Za-z]", text) and len(text) >= 12)
