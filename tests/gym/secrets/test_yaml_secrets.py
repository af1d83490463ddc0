"""References to environment variables and literal secrets in a YAML, from loading to use."""

import copy
import logging
import pickle

import pytest

from envgym.errors import PrerequisiteError, SpecError
from envgym.registration import make_world
from envgym.secrets import redact
from envgym.secrets.values import Secret
from envgym.spec import late_values
from envgym.spec.catalog import bundled_envs
from envgym.spec.environment import EnvSpec, load_spec
from envgym.spec.late_values import credential_lines, with_values

SECRET = 'p"w\n/+é-12345'
YAML = """\
id: test/secret-v0
description: "of ${env:OWNER}, not ${env::OWNER}"
prompt: {system: "env::OWNER"}
tools:
  - mcp:
      command: [python, server.py, --name, "env:OWNER"]
      env: {TOKEN: "env:TOKEN", PAIR: "a:${env:TOKEN}"}
  - openapi: api.json
    base_url: "env:API"
    headers: {Authorization: "Bearer ${env:TOKEN}"}
    reset: {operation: reset, arguments: {deep: [{inner: "env:TOKEN"}]}}
tasks: {from: tasks.py, val: 2, test: 2}
episode: {max_turns: "env:TURNS"}
reward:
  solved: {from: state_match, weight: 1, options: {}}
"""


@pytest.fixture
def yaml(tmp_path, monkeypatch):
    values = {"OWNER": "the owner", "TOKEN": SECRET, "API": "http://127.0.0.1:9/x", "TURNS": "3"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "tasks.py").touch()
    (tmp_path / "api.json").touch()
    path = tmp_path / "env.yaml"
    path.write_text(YAML)
    return path


def test_a_loaded_definition_shows_references(yaml):
    spec = load_spec(yaml)
    mcp, live = spec.model_dump()["tools"]
    assert mcp["mcp"]["env"] == {"TOKEN": "env:TOKEN", "PAIR": "a:${env:TOKEN}"}
    assert live["base_url"] == "env:API"
    assert live["headers"] == {"Authorization": "Bearer ${env:TOKEN}"}
    assert spec.episode.max_turns == 3  # a number has no secret


def test_a_resolved_definition_has_the_values_and_shows_references(yaml):
    spec = load_spec(yaml)
    used = with_values(spec, spec.places)
    mcp, live = used.tools[0].mcp, used.tools[1]
    assert mcp.command[3] == "the owner"
    assert mcp.env == {"TOKEN": SECRET, "PAIR": f"a:{SECRET}"}
    assert live.base_url == "http://127.0.0.1:9/x"
    assert live.headers["Authorization"] == f"Bearer {SECRET}"
    assert live.reset.arguments == {"deep": [{"inner": SECRET}]}
    assert used.description == "of the owner, not ${env:OWNER}"
    assert used.prompt.system == "env:OWNER"
    for text in (repr(used), str(used.model_dump()), used.model_dump_json(by_alias=True)):
        assert "12345" not in text
        assert "env:TOKEN" in text
    assert b"12345" not in pickle.dumps(used)
    assert used.model_dump() == spec.model_dump()


def test_a_copy_keeps_the_value_and_a_pickle_reads_it_again(yaml, monkeypatch):
    spec = load_spec(yaml)
    used = with_values(spec)
    assert copy.deepcopy(used).tools[0].mcp.env["TOKEN"] == SECRET
    data = pickle.dumps(used)
    assert pickle.loads(data).tools[0].mcp.env["TOKEN"] == SECRET
    monkeypatch.delenv("TOKEN")
    assert pickle.loads(data).tools[0].mcp.env["TOKEN"] == "env:TOKEN"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("TOKEN", "env.yaml:7: tools.0.mcp.env.TOKEN: uses the environment variable TOKEN"),
        ("API", "env.yaml:9: tools.1.base_url: uses the environment variable API"),
        ("OWNER", "env.yaml:2: description: uses the environment variable OWNER"),
    ],
)
def test_a_missing_variable_is_told_when_it_is_needed(yaml, monkeypatch, name, told):
    monkeypatch.delenv(name)
    spec = load_spec(yaml)  # a YAML can be checked without its variables
    with pytest.raises(PrerequisiteError, match=r"is not set\. Set it first: export") as caught:
        make_world(spec)
    assert told in str(caught.value)


def test_a_missing_variable_of_a_number_is_told_by_the_check(yaml, monkeypatch):
    monkeypatch.delenv("TURNS")
    with pytest.raises(SpecError, match=r"env.yaml:13: episode.max_turns: .* not set: env:TURNS"):
        load_spec(yaml)


@pytest.mark.parametrize("text", ["env:A-B", "env:", "env:1A", "x ${env:A B} y"])
def test_a_reference_without_a_valid_name_is_refused(yaml, text):
    with pytest.raises(SpecError, match=r"description: '.*' names no environment variable"):
        load_spec(yaml, [f"description='{text}'"])


def test_a_value_is_checked_by_the_schema_and_not_shown(yaml, monkeypatch):
    monkeypatch.setenv("API", "ftp://secret-host-77")
    with pytest.raises(SpecError) as caught:
        load_spec(yaml)
    assert "tools.1.base_url: must be a URL" in str(caught.value)
    assert "secret-host-77" not in str(caught.value)


def test_overrides_may_refer_to_variables(yaml):
    spec = load_spec(yaml, ["description=env:OWNER"])
    assert spec.model_dump()["description"] == "env:OWNER"
    assert with_values(spec).description == "the owner"


LITERALS = """\
id: test/secret-v0
prompt: {}
tools:
  - openapi: api.json
    base_url: https://ann:%s@example.com/api
    headers: {X-Api-Key: "%s", Accept: text/plain}
tasks: {from: tasks.py, val: 2, test: 2}
"""


def test_a_literal_secret_is_used_hidden_and_warned_of(yaml, caplog):
    late_values._warn.cache_clear()
    yaml.write_text(LITERALS % ("pass-word-1", "key-value-2"))
    with caplog.at_level(logging.WARNING):
        spec = load_spec(yaml)
        load_spec(yaml)
    live = spec.tools[0]
    assert live.base_url == "https://ann:pass-word-1@example.com/api"
    assert live.headers == {"X-Api-Key": "key-value-2", "Accept": "text/plain"}
    shown = spec.model_dump()["tools"][0]
    assert shown["base_url"] == "https://ann:[hidden]@example.com/api"
    assert shown["headers"] == {"X-Api-Key": "[hidden]", "Accept": "text/plain"}
    assert redact("pass-word-1, key-value-2") == "[hidden], [hidden]"
    assert caplog.text.count("env.yaml:5: tools.0.base_url: a secret stands here") == 1
    assert caplog.text.count("env.yaml:6: tools.0.headers.X-Api-Key: a secret stands") == 1
    assert "write env:NAME" in caplog.text
    assert "pass-word-1" not in caplog.text + repr(spec)


def test_a_literal_secret_next_to_a_reference_is_refused(yaml):
    yaml.write_text((LITERALS % ("pass-word-1", "x")).replace("/api", "/${env:OWNER}"))
    with pytest.raises(SpecError, match=r"env.yaml:5: tools.0.base_url: holds a secret next to"):
        load_spec(yaml)


def test_a_short_form_may_refer_to_a_variable(monkeypatch):
    monkeypatch.setenv("GATE", "solved")
    spec = EnvSpec.model_validate(
        {
            "id": "a/b-v0",
            "tools": [],
            "tasks": {"from": "t.py"},
            "reward": {"extra": {"from": "state_match", "gate": "env:GATE"}},
        }
    )
    assert spec.model_dump()["reward"]["extra"]["gate"]["on"] == "env:GATE"
    assert with_values(spec).reward["extra"].gate.on == "solved"


def test_commands_tell_which_variable_goes_to_which_server(yaml):
    assert credential_lines(load_spec(yaml)) == [
        "uses $OWNER: description, tools.0.mcp.command.3",
        "uses $TOKEN: tools.0.mcp.env.TOKEN, tools.0.mcp.env.PAIR, "
        "tools.1.headers.Authorization (sent to env:API), "
        "tools.1.reset.arguments.deep.0.inner (sent to env:API)",
        "uses $API: tools.1.base_url",
    ]


def test_the_shipped_environments_have_no_secret_and_no_reference(caplog):
    for name in bundled_envs():
        spec = load_spec(name)
        assert with_values(spec) is spec
    assert "a secret stands here" not in caplog.text


def test_a_secret_is_a_string():
    secret = Secret("value", "env:NAME")
    assert (f"{secret}", secret + "!", repr(secret)) == ("value", "value!", "'env:NAME'")
