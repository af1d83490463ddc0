"""Options of all HTTP clients of envgym, and the address and credentials of one server.

Proxies of the shell (`HTTP_PROXY`, `ALL_PROXY`, `.netrc`) are not used: calls and credentials would
go to a host that the YAML does not name. `ENVGYM_USE_PROXY=1` turns them on. `SSL_CERT_FILE` and
`SSL_CERT_DIR` are always respected. Redirects are not followed.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx

from envgym.errors import PrerequisiteError, SpecError
from envgym.secrets import get_logger, hide
from envgym.secrets.references import has_reference, variables_in
from envgym.secrets.values import Secret, hide_literals, resolve

for _name in ("httpx", "httpx2"):
    get_logger(_name)  # logs the URL of each request

USE_PROXY = "ENVGYM_USE_PROXY"
"""Environment variable that turns the proxies of the shell on."""


def client_options() -> dict[str, Any]:
    """Return the options that every HTTP client of envgym has."""
    if os.environ.get(USE_PROXY, "").lower() in ("1", "true", "yes"):
        return {"trust_env": True, "follow_redirects": False}
    options: dict[str, Any] = {"trust_env": False, "follow_redirects": False}
    file = os.environ.get("SSL_CERT_FILE") or None
    folder = os.environ.get("SSL_CERT_DIR") or None
    if file or folder:
        options["verify"] = ssl.create_default_context(cafile=file, capath=folder)
    return options


@dataclass(frozen=True, slots=True)
class Address:
    """URL of a server without its credentials, and the headers that go to this server only."""

    url: str
    """URL without user and password."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers of every request, with the credentials of the URL."""

    @classmethod
    def of(cls, url: str, headers: Mapping[str, str] | None = None) -> Address:
        """Return the address of a URL that may have user and password.

        Args:
            url: URL of the server. It may refer to environment variables, as in a YAML.
            headers: Headers of every request, which may refer to variables too.

        Raises:
            SpecError: If the URL is not an HTTP URL, names credentials twice, or a header has
                characters that HTTP does not allow.
            PrerequisiteError: If a variable is not set.
        """
        url = _value("the URL", url)
        hide_credentials(url)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SpecError(
                f"'{url}' is not a URL of a server: it must begin with http:// or https://"
            )
        found = {name: _header(name, text) for name, text in (headers or {}).items()}
        userinfo, at, host = parts.netloc.rpartition("@")
        if not at:
            return cls(url, found)
        plain = urlunsplit(parts._replace(netloc=host))
        if any(name.lower() == "authorization" for name in found):
            raise SpecError(
                f"the address of {plain} has a user or a password, and the header Authorization is "
                "given too. Remove one of them"
            )
        user, _, password = userinfo.partition(":")
        basic = httpx.BasicAuth(unquote(user), unquote(password))._auth_header
        hide(basic)
        return cls(plain, found | {"Authorization": basic})


def bearer(key: str | None) -> dict[str, str]:
    """Return the header that sends an API key. None and an empty key give no header."""
    if not key:
        return {}
    hide(key)
    text = f"Bearer {key.strip()}"
    return {"Authorization": Secret(text, key.shown) if isinstance(key, Secret) else text}


def hide_credentials(url: str) -> None:
    """Hide the user and the password of a URL from now on."""
    userinfo = urlsplit(url).netloc.rpartition("@")[0]
    name, _, password = userinfo.partition(":")
    for secret in filter(None, [password or name, userinfo if password else ""]):
        hide(secret)
        hide(unquote(secret))


def _header(name: str, text: str) -> str:
    """Return a header's value without line breaks at its ends.

    Raises:
        SpecError: If it has characters that HTTP does not allow.
        PrerequisiteError: If a variable is not set.
    """
    hide_literals(("headers", name), text)
    value = _value(f"the header '{name}'", text).strip("\r\n")
    if all(" " <= character <= "~" or character == "\t" for character in value):
        return value
    what = "a line break" if "\n" in value or "\r" in value else "a character that is not ASCII"
    shown = text.shown if isinstance(text, Secret) else text
    source = f" ({shown})" if has_reference(shown) else ""
    raise SpecError(
        f"the value of the header '{name}'{source} has {what}, which HTTP does not allow. "
        "Remove it from the variable or the setting."
    )


def _value(what: str, text: str) -> str:
    """Return a string with the values of its variables. Raises PrerequisiteError."""
    if isinstance(text, Secret) or not has_reference(text):
        return text
    if (found := resolve(text)) is None:
        names = " and ".join(variables_in(text))
        raise PrerequisiteError(
            f"{what} uses the environment variable {names}, which is not set. Set it first."
        )
    return found
