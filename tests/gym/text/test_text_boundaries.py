"""Text of any kind passes prompts, tools, errors, tasks and records; no terminal gets it raw."""

import json
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest

from envgym.commands import main
from envgym.episode import Episode
from envgym.errors import SpecError
from envgym.messages import Message
from envgym.playing import play
from envgym.policies.noop import NoopPolicy
from envgym.policies.oracle import OraclePolicy
from envgym.policies.scripted import ScriptedPolicy
from envgym.registration import make_world
from envgym.spec.environment import load_spec
from envgym.tasksets import label_template, load_rows
from envgym.text import clean
from tests.fakes.odd_texts import KINDS, write_odd_texts

ENVGYM = [sys.executable, "-m", "envgym"]


def refuse_constant(word: str):
    raise ValueError(f"{word} is no JSON")


def assert_harmless(printed: bytes) -> None:
    """Fail if output holds a control character, a bidirectional one or a separator."""
    text = printed.decode("utf-8", "strict")
    assert not [letter for letter in text if not letter.isprintable() and letter not in "\n\xa0"]


@pytest.fixture(params=["none", "local"])
def yaml(request, tmp_path, monkeypatch) -> Path:
    path = write_odd_texts(tmp_path, backend=request.param)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("odd", None)
    return path


def test_an_evaluation_keeps_each_kind_of_text_as_strict_json(yaml, tmp_path, capsys):
    file = tmp_path / "episodes.jsonl"
    words = ["eval", str(yaml), "--policy", "oracle", "--episodes", str(file), "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)[0]["total"]["successes"] == len(KINDS)
    lines = file.read_bytes().decode("utf-8", "strict").splitlines()  # splits at U+2028 too
    assert len(lines) == len(KINDS)
    for line in lines:
        plain = json.loads(line, parse_constant=refuse_constant)
        kind = plain["task_id"].split("/")[1].removeprefix("say_")
        told = [each["content"] for each in plain["messages"] if each["role"] == "tool"]
        expected = clean(KINDS[kind])
        assert told[0][:100] == expected[:100]
        assert told[1][:100] == f"error: {expected}"[:100]
        assert expected[:40].rstrip("\\ud8") in plain["messages"][1]["content"]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"large"}))
def test_playing_prints_each_kind_harmlessly(yaml, kind, capfdbinary):
    assert main(["play", str(yaml), "--policy", "oracle", "--task", f"test/say_{kind}/0"]) == 0
    printed = capfdbinary.readouterr().out
    assert_harmless(printed)
    assert printed.decode().count("assistant") >= 3
    if kind in ("markup", "json"):
        assert KINDS[kind] in printed.decode()


def test_the_action_of_a_caller_is_cleaned_too(yaml):
    world = make_world(load_spec(yaml))
    env = world.env()
    env.reset(options={"task": "test/say_nul/0"})
    _, reward, terminated, _, info = env.step("half \ud83d")
    assert (reward, terminated, info["stop_reason"]) == (0.0, True, "answered")
    policy = ScriptedPolicy(["say(kind='\ud83d')", "\ud83d\ude00"])
    episode = play(world.env(), policy, seed=0, task="test/say_pair/0")
    assert episode.last_assistant_message == "\U0001f600"
    assert episode.success
    world.close()


@pytest.mark.slow
def test_the_checks_pass_with_each_kind_of_text(tmp_path, monkeypatch, capsys):
    yaml = write_odd_texts(tmp_path, backend="none")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("odd", None)
    code = main(["check", str(yaml), "--tasks", "4", "--json"])
    results = {each["id"]: each for each in json.loads(capsys.readouterr().out)["checks"]}
    assert results["episode_determinism"]["passed"]
    assert results["oracle_max"]["passed"]
    assert code in (0, 1)  # the labels stand in the prompts, which a check of leaks may report


# --- a foreign environment ---


class Foreign(gymnasium.Env):
    """A text environment that sends each kind of text as its observation and its reasons."""

    def __init__(self, text: str):
        self.text = text

    def reset(self, *, seed=None, options=None):
        return self.text, {"task": {"id": self.text, "level": self.text}, "env_id": self.text}

    def step(self, action):
        info = {
            "stop_reason": self.text,
            "state_diff": {self.text: [self.text, float("nan")]},
            "reward_parts": {self.text: 1.0},
            "dialect": self.text,
        }
        return self.text, 1.0, True, False, info


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_foreign_environment_may_send_each_kind(kind, capfdbinary):
    from envgym.evaluation.episode_text import print_episode
    from envgym.evaluation.report import Outcome, print_outcomes, to_markdown

    episode = play(Foreign(KINDS[kind]), NoopPolicy(), seed=0)
    assert not episode.is_void
    line = episode.to_json()
    json.loads(line.encode(), parse_constant=refuse_constant)
    assert Episode.from_json(line).messages == episode.messages
    print_episode(episode)
    outcome = Outcome.of(KINDS[kind], [Episode.from_json(line)])
    print_outcomes([outcome])
    print_outcomes([outcome], as_json=True)
    assert len(to_markdown([outcome]).splitlines()[0]) > 0
    assert_harmless(capfdbinary.readouterr().out)


# --- files ---


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_labelled_rows_hold_each_kind_of_text(tmp_path, ending):
    kinds = {name: text for name, text in KINDS.items() if name not in ("nul", "lines", "large")}
    rows = [
        {"text": f"{text} {number}", "label": f"label {(number + at) % 2} {KINDS['surrogate']}"}
        for at, text in enumerate(kinds.values())
        for number in range(40)
    ]
    file = tmp_path / f"rows.{ending}"
    if ending == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import csv

        with file.open("w", encoding="utf-8", newline="", errors="backslashreplace") as stream:
            writer = csv.DictWriter(stream, ["text", "label"])
            writer.writeheader()
            writer.writerows(rows)
    loaded = load_rows(file)
    assert [row.texts["text"] for row in loaded[:1]] == [clean(rows[0]["text"])]
    assert all("\\ud83d" in (row.label or "") for row in loaded)
    for row in loaded:
        "".join([*row.texts.values(), row.label or ""]).encode()
    assert label_template("odd", loaded, ask="{text} {labels}").splits == ("train", "val", "test")


@pytest.mark.parametrize(
    "data",
    [
        b"id: a\x1bb\n",
        b"id: \xff\xfe\n",
        b"id: a\x00b\n",
        b"id: \xed\xa0\x80\n",
        b"id: 2026-13-45\n",
        b"? [a]\n: b\n",
        b"id: " + b"[" * 1500,
    ],
    ids=["escape", "bytes", "nul", "surrogate", "date", "key", "depth"],
)
def test_a_yaml_that_cannot_be_read_is_an_error_of_one_line(tmp_path, data, capfdbinary):
    path = tmp_path / "env.yaml"
    path.write_bytes(data)
    with pytest.raises(SpecError):
        load_spec(path)
    assert main(["eval", str(path), "--policy", "oracle"]) == 2
    said = capfdbinary.readouterr().err
    assert_harmless(said)
    assert b"Traceback" not in said


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_output_in_any_encoding_is_printed(tmp_path, encoding):
    path = write_odd_texts(tmp_path, backend="none")
    done = subprocess.run(
        [*ENVGYM, "play", str(path), "--policy", "oracle", "--task", "test/say_large/0"],
        capture_output=True,
        env={"PYTHONIOENCODING": encoding, "PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\ud800\\u2028" in done.stdout


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_message_of_each_kind_can_be_encoded(kind):
    assert Message("user", KINDS[kind]).content.encode()
    assert OraclePolicy("pythonic")
