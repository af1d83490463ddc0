"""A hidden value appears in no encoding, in no text that a writer of envgym produces."""

import base64
import dataclasses
import html
import json
import logging
import pickle
import re
from urllib.parse import quote, quote_plus

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envgym.episode import Episode
from envgym.errors import SpecError, UsageError, WorldFailure
from envgym.messages import Message
from envgym.policies import TokenTrace
from envgym.secrets import forget, get_logger, hide, redact, redacted
from envgym.secrets.encodings import fold

CHARACTERS = st.characters(exclude_categories=["Cs"])
SECRETS = st.one_of(
    st.text(CHARACTERS, min_size=6, max_size=40),
    st.text("ab\\n%u0+/=\"'&;x41 \n\t-_.é€", min_size=6, max_size=30),
).filter(lambda text: len(text.strip()) >= 6 and len(fold(text)) >= 4)
ENCODINGS = {
    "as it is": lambda text: text,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "Python": lambda text: repr([text]),
    "bytes of Python": lambda text: repr(text.encode())[2:-1],
    "URL": lambda text: quote(text, safe=""),
    "path of a URL": quote,
    "form": quote_plus,
    "URL in lower case": lambda text: re.sub(
        "%..", lambda pair: pair[0].lower(), quote(text, safe="")
    ),
    "URL in a URL": lambda text: quote(quote(text, safe=""), safe=""),
    "JSON in a URL": lambda text: quote(json.dumps(text)),
    "HTML": html.escape,
    "YAML": lambda text: yaml.safe_dump(
        {"a": re.sub("[\xa0\x85\u2028\u2029]", "", text)}, width=20
    ),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 of a URL": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "base64 in a URL": lambda text: quote(base64.b64encode(text.encode()).decode(), safe=""),
    "hexadecimal": lambda text: text.encode().hex(),
    "upper-case hexadecimal": lambda text: text.encode().hex().upper(),
    "split over lines": lambda text: "\n   ".join(text[n : n + 3] for n in range(0, len(text), 3)),
}
CHECKED = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)


@CHECKED
@given(SECRETS, st.text(CHARACTERS, max_size=8), st.text(CHARACTERS, max_size=8))
def test_no_encoding_of_a_secret_is_left(secret, before, after):
    forget()
    hide(secret, "N")
    for name, encode in ENCODINGS.items():
        written = encode(secret)
        shown = redact(before + written + after)
        assert written not in shown or written in before + after, name
        assert "[env:N]" in shown or "***" in shown, name


@CHECKED
@given(SECRETS, st.sampled_from([b"", b"u", b"user:", b"ab"]), st.sampled_from([b"", b"xyz"]))
def test_a_secret_inside_of_base64_is_replaced_at_each_alignment(secret, before, after):
    forget()
    hide(secret, "N")
    for encode in (base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes):
        shown = redact(encode(before + secret.encode() + after).decode())
        assert "[env:N]" in shown or "***" in shown


def episode(text: str) -> Episode:
    return Episode(
        env_id="a/b-v0",
        task_id="test/x/0",
        messages=(Message("user", text), Message("tool", f"got {text!r}", name="t")),
        split="test",
        level="L0",
        template="x",
        seed=7,
        tokens=None,
        reward=1.0,
        stop_reason="answered",
        state_diff={"rows": {"added": [{text: [1, text]}]}},
    )


def holds(secret: str, text: str) -> bool:
    """Whether the text has the secret, read as JSON, as it is, or folded."""
    return any(encode(secret) in text for encode in ENCODINGS.values()) or (
        len(fold(secret)) >= 4 and fold(secret) in fold(text)
    )


@CHECKED
@given(SECRETS.filter(lambda text: len(fold(text)) >= 6 and not text.isdigit()))
def test_a_record_is_one_json_document_without_the_secret(secret):
    forget()
    plain = episode("harmless").to_json()
    hide(secret)
    line = episode(f"before {secret} after").to_json()
    assert "\n" not in line
    read = json.loads(line)
    assert set(read) == set(json.loads(plain))
    assert not holds(secret, read["messages"][0]["content"])
    assert not holds(secret, read["messages"][1]["content"])
    assert not holds(secret, json.dumps(read["state_diff"]))


def test_numbers_and_token_ids_of_a_record_stay():
    hide("123456")
    tokens = TokenTrace((123456, 1), (False, True), (0.0, -0.5))
    record = json.loads(dataclasses.replace(episode("x"), seed=123456, tokens=tokens).to_json())
    assert record["seed"] == 123456
    assert record["tokens"]["token_ids"] == [123456, 1]


@pytest.mark.parametrize("kind", [SpecError, UsageError, ValueError])
def test_errors_contain_no_secret(kind):
    hide("sk-value-1234", "TOKEN")
    error = kind("refused: Bearer sk-value-1234")
    if kind is ValueError:
        assert redact(str(error)) == "refused: Bearer [env:TOKEN]"
    else:
        assert str(error) == "refused: Bearer [env:TOKEN]"


def test_a_failure_contains_no_secret_also_after_pickling():
    hide("sk-value-1234", "TOKEN")
    failure = WorldFailure("sandbox_lost", "header b'sk-value-1234\\n'", stage="call")
    again = pickle.loads(pickle.dumps(failure))
    assert failure.message == again.message == "header b'[env:TOKEN]\\n'"
    assert "1234" not in str(failure)


def test_logs_and_their_tracebacks_contain_no_secret(caplog):
    hide("sk-value-1234", "TOKEN")
    log = get_logger("envgym.anything")
    with caplog.at_level(logging.WARNING):
        try:
            raise OSError("cannot reach http://u:sk-value-1234@host")
        except OSError as error:
            log.warning("no answer: %s", error, exc_info=True)
    assert "sk-value-1234" not in caplog.text
    assert "no answer: cannot reach http://u:[env:TOKEN]@host" in caplog.text
    assert "OSError: cannot reach http://u:[env:TOKEN]@host" in caplog.text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("line-one-abc\nline-two-def", 'keys: ["line-one-abc", "line-two-def"]'),
        ("-----BEGIN X-----\nMIIEvQIBADANBg\n-----END X-----", "> MIIEvQIBADANBg"),
        ("Bearer sk-value-1234", "token=sk-value-1234"),
        ("Basic " + base64.b64encode(b"ann:pass-word-1").decode(), "pass-word-1"),
        ("postgres://ann:p%40ssword-1@db/x", "password p@ssword-1"),
        ("https://api.example.com/?api_key=abcdef-123", "abcdef-123"),
        (json.dumps({"type": "account", "private_key": "abcdef-123"}), "abcdef-123"),
    ],
)
def test_the_parts_of_a_secret_are_hidden_too(value, text):
    hide(value, "N")
    shown = redact(text)
    assert "[env:N]" in shown
    for part in ("line-one", "line-two", "MIIE", "value-1234", "word-1", "abcdef-123"):
        assert part not in shown


def test_short_values_are_not_hidden_and_data_without_secrets_is_returned_itself():
    data = {"a": ["8080"]}
    hide("8080", "PORT")
    assert redacted(data) is data
    assert redact("port 8080") == "port 8080"


def test_keys_and_nested_lists_are_redacted():
    hide("sk-value-1234")
    data = {"sk-value-1234": [("x sk-value-1234",), 3, None]}
    assert redacted(data) == {"[hidden]": [("x [hidden]",), 3, None]}
