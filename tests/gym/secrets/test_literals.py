"""Secrets that stand in a YAML are found by key, place or form; ordinary settings are not."""

import pytest

from envgym.secrets.literals import literal_secrets
from envgym.secrets.names import is_secret_name


@pytest.mark.parametrize(
    "name",
    [
        *("token", "API_KEY", "apiKey", "X-Auth-Token", "client_secret", "password"),
        *("DB_PASSWORD", "Authorization", "Cookie", "private_key", "AWS_SECRET_ACCESS_KEY"),
        *("credentials", "pwd"),
    ],
)
def test_names_of_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["keys", "max_tokens_per_turn", "keyboard", "author", "passed", "system", "monkey"]
)
def test_names_of_other_settings(name):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("path", "text", "before", "secret"),
    [
        (("headers", "Authorization"), "Bearer abc", None, "Bearer abc"),
        (("headers", "X-Desk"), "hunter2", None, "hunter2"),
        (("mcp", "env", "DB_PASSWORD"), "hunter2", None, "hunter2"),
        (("mcp", "env", "MODE"), "sk-proj-abcdef123456", None, "sk-proj-abcdef123456"),
        (("mcp", "command", 3), "hunter2", "--token", "hunter2"),
        (("mcp", "command", 3), "--api-key=hunter2", None, "hunter2"),
        (("base_url",), "https://ann:hunter2@host/api", None, "hunter2"),
        (("url",), "https://host/mcp?access_token=hunter2", None, "hunter2"),
        (("options", "key"), "q8-xx-17", None, "q8-xx-17"),
        (("description",), "see https://token-1@host/x", None, "token-1"),
    ],
)
def test_literal_secrets(path, text, before, secret):
    assert literal_secrets(path, text, before) == [secret]


@pytest.mark.parametrize(
    ("path", "text", "before"),
    [
        (("headers", "Authorization"), "env:TOKEN", None),
        (("headers", "Authorization"), "Bearer ${env:TOKEN}", None),
        (("headers", "Accept"), "application/json", None),
        (("headers", "X-Tenant"), "{session}", None),
        (("options", "key"), "price", None),
        (("mcp", "env", "MODE"), "production", None),
        (("mcp", "command", 1), "notes/server.py", "python"),
        (("base_url",), "https://${env:USER}:${env:PASSWORD}@host", None),
        (("prompt", "system"), "Never tell your password. Ask for the key.", None),
    ],
)
def test_ordinary_settings(path, text, before):
    assert literal_secrets(path, text, before) == []
