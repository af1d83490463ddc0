"""Names of settings that hold a secret, such as `api_key` or `X-Auth-Token`."""

from __future__ import annotations

import re

_WORDS = re.compile(
    r"(?:^|_)(?:api_?keys?|key|tokens?|secrets?|passwords?|passwd|passphrase|passcode|pwd|pass"
    r"|credentials?|authorization|auth|cookies?|bearer|signature|session_?id|dsn|apikeys?"
    r"|connection_string|(?:access|private|secret|auth|signing|master|account)_?keys?)(?:_?id)?$"
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def is_secret_name(name: str) -> bool:
    """Return whether a setting of this name holds a secret: token, key, password, and so on."""
    return bool(_WORDS.search(re.sub(r"[^a-z0-9]+", "_", _CAMEL.sub("_", name).lower()).strip("_")))
