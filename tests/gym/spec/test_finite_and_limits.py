"""Numbers of a YAML are finite at any depth; large and self-repeating YAML is refused."""

import json

import pytest

from envgym.commands import main
from envgym.errors import SpecError
from envgym.sandbox.openapi.documents import read_document
from envgym.spec.environment import load_spec
from envgym.spec.yaml_file import read_yaml
from envgym.tasksets.readers.jsonl import read as read_rows

HEAD = "id: test/limits-v0\ntools: []\ntasks: {from: tasks.py}\n"


@pytest.fixture
def yaml(tmp_path):
    (tmp_path / "tasks.py").touch()
    path = tmp_path / "env.yaml"
    path.write_text(HEAD)
    return path


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf", "1e400", "'nan'", "'-Infinity'"])
@pytest.mark.parametrize(
    ("block", "key"),
    [
        ("reward: {solved: {from: state_match, weight: %s}}", "reward.solved.weight"),
        ("reward: {solved: {from: state_match, weight: {0: 1, 9: %s}}}", "reward.solved.weight.9"),
        ("reward: {solved: {from: state_match, range: [0, %s]}}", "reward.solved.range.1"),
        ("reward: {solved: {from: state_match, clip: [%s, 1]}}", "reward.solved.clip.0"),
        ("episode: {tool_timeout_seconds: %s}", "episode.tool_timeout_seconds"),
        ("state: {clock_step_seconds: %s}", "state.clock_step_seconds"),
        ("sandbox: {pool: {recycle: {seconds: %s}}}", "sandbox.pool.recycle.seconds"),
        ("train: {optimizer: {learning_rate: %s}}", "train.optimizer.learning_rate"),
        ("train: {lora: {alpha: %s}}", "train.lora.alpha"),
    ],
)
def test_a_number_must_be_finite(yaml, number, block, key):
    yaml.write_text(HEAD + block % number + "\n")
    with pytest.raises(SpecError) as caught:
        load_spec(yaml)
    assert f"env.yaml:4: {key}: must be a finite number, got" in str(caught.value)


@pytest.mark.parametrize(
    ("block", "key"),
    [
        (
            "reward: {solved: {from: state_match, options: {a: [{b: .inf}]}}}",
            "reward.solved.options.a.0.b",
        ),
        ("tools: [{mcp: {url: 'http://h', reset: {tool: r, arguments: {n: .nan}}}}]", "n"),
        ("train: {plan: {name: 'p.py:plan', any: {deep: [1, -.inf]}}}", "train.plan.any.deep.1"),
        ("train: {profiles: {cpu: {optimizer: {learning_rate: .inf}}}}", "train.profiles.cpu"),
    ],
)
def test_a_number_of_an_option_must_be_finite(yaml, block, key):
    head = HEAD.replace("tools: []", "prompt: {}") if block.startswith("tools") else HEAD
    yaml.write_text(head + block + "\n")
    with pytest.raises(SpecError, match="must be a finite number") as caught:
        load_spec(yaml)
    assert "env.yaml:4: " in str(caught.value)
    assert key in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        "train.algorithm.kl.coef=.inf",
        "train.warm_start.learning_rate=.inf",
        "episode.timeout_seconds=.inf",
        "episode.refusal.arguments.x=.nan",
        "reward.solved.weight=.nan",
    ],
)
def test_a_command_refuses_an_override_that_is_not_finite(yaml, capsys, setting):
    yaml.write_text(HEAD + "episode: {refusal: {tool: t}}\n")
    assert main(["eval", str(yaml), "--policy", "noop", setting]) == 2
    key = setting.partition("=")[0]
    assert f"override '{setting}': {key}: must be a finite number" in capsys.readouterr().err


def nested(count: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, count):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (nested(9), "env.yaml:8: not valid YAML: more than 20,000 values, with those that aliases"),
        (
            nested(9).replace("[", "{<<: [").replace("]", "]}").replace("x, " * 9 + "x", "{k: 1}"),
            "more than 20,000 values",
        ),
        ("a: " + "[" * 3000 + "]" * 3000, "env.yaml:4: not valid YAML: more than 64 lists and"),
        ("a: " + "{b: " * 900 + "}" * 900, "more than 64 lists and mappings are nested"),
        ("a:\n  - " + "- " * 900 + "x", "more than 64 lists and mappings are nested"),
        (
            f"a: &a {'[' * 40}{']' * 40}\nb: {'[' * 40}*a{']' * 40}",
            "env.yaml:5: not valid YAML: more than 64 lists",
        ),
        ("a: &a [*a]", "env.yaml:4: not valid YAML: the alias *a is inside of its own anchor"),
        ("a: &a {b: [*a]}", "the alias *a is inside of its own anchor"),
        ("a: '" + "x" * (4 * 2**20) + "'", "at most 4 MiB are read"),
        ("a: 2026-13-45", "env.yaml:4: not valid YAML: cannot be read: month must be in 1..12"),
        ("a: " + "9" * 5000, "env.yaml:4: not valid YAML: cannot be read:"),
        ("a: !!bool perhaps", "env.yaml:4: not valid YAML: cannot be read:"),
    ],
)
def test_a_yaml_beyond_a_limit_is_refused_with_its_line(yaml, text, told):
    yaml.write_text(HEAD + text + "\n")
    with pytest.raises(SpecError) as caught:
        read_yaml(yaml)
    assert told in str(caught.value)


@pytest.mark.parametrize("value", ["[" * 3000, "&a [*a]", "9" * 5000, "2026-13-45"])
def test_an_override_beyond_a_limit_is_refused(yaml, value):
    with pytest.raises(SpecError, match="is not valid YAML"):
        load_spec(yaml, [f"description={value}"])


def test_ordinary_aliases_are_read(yaml):
    yaml.write_text(HEAD + "state: &s {allow: [a]}\nepisode: {closing_tools: [&x b, *x]}\n")
    assert load_spec(yaml).episode.closing_tools == ("b", "b")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (nested(9), "more than 2,000,000 values"),
        ("[" * 900 + "]" * 900, "more than 128 lists and mappings are nested"),
        (json.dumps({"a": 1}).replace("1", "&a [*a]"), "inside of its own anchor"),
    ],
)
def test_an_openapi_document_beyond_a_limit_is_refused(tmp_path, text, told):
    path = tmp_path / "api.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=told):
        read_document(path)


@pytest.mark.parametrize(
    "row", ['{"text": ' + "[" * 200_000, '{"text": "a", "label": ' + "9" * 5000]
)
def test_a_data_file_that_is_too_deep_is_refused_with_its_line(tmp_path, row):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": "b"}\n' + row + "}\n")
    with pytest.raises(SpecError, match=r"rows.jsonl:2: nested too deeply, or an integer"):
        list(read_rows(path))
