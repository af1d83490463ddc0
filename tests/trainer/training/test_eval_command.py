"""The command printed at the end of a run reproduces the table of that run."""

import json
import shlex
import shutil

import pytest

from envgym.commands import main
from envgym.errors import UsageError
from envgym.spec.catalog import find_env
from envgym.spec.environment import load_spec
from envgym_trainer.inference.policies.local import open_adapter
from envgym_trainer.run.folder import RunFolder

SETTINGS = [
    "prompt.rendering=text",
    "train.model=tiny",
    "train.seed=3",
    "train.warm_start.episodes=32",
    "train.warm_start.learning_rate=1e-2",
    "train.steps=1",
    "train.rollout.groups_per_step=1",
    "train.rollout.group_size=2",
    "train.rollout.max_turn_tokens=11",
    "train.evaluation.tasks=12",
    "train.evaluation.split=val",
    "train.evaluation.temperature=0.8",
    "train.evaluation.base_tasks=0",
    "train.checks.preflight=off",
]


GUESS = load_spec("guess")


def by_task(records):
    """Return records in the order of their tasks; `--episodes` has the order of their ends."""
    return sorted(records, key=lambda record: record["task_id"])


def test_the_printed_command_measures_what_the_table_shows(tmp_path, capsys):
    assert main(["train", "guess", *SETTINGS, "--out", str(tmp_path), "--name", "r"]) == 0
    printed = capsys.readouterr().out
    (line,) = [line.strip() for line in printed.splitlines() if "envgym eval" in line]
    run = RunFolder.open(tmp_path / "r")
    assert line == (
        f"envgym eval guess prompt.rendering=text --policy adapter:{run.adapter} "
        "--split val --tasks 12 --seed 3"
    )
    table = [line for line in run.metrics() if line["phase"] == "eval"][-1]
    manifest = json.loads((run.adapter / "manifest.json").read_text())
    assert manifest["sampling"]["max_turn_tokens"] == 11
    assert manifest["largest_logit_difference"] <= 1e-5
    assert "the largest difference of a logit is" in (run.adapter / "README.md").read_text()
    episodes = tmp_path / "again.jsonl"
    assert main([*shlex.split(line)[1:], "--json", "--episodes", str(episodes)]) == 0
    capsys.readouterr()
    again = by_task(json.loads(text) for text in episodes.read_text().splitlines())
    evaluated = [
        json.loads(episode.to_json()) for _, phase, episode in run.episodes() if phase == "eval"
    ]
    before = by_task(evaluated[-12:])
    assert [each["task_id"] for each in again] == [each["task_id"] for each in before]
    assert [each["messages"] for each in again] == [each["messages"] for each in before]
    rewards = [each["reward"] for each in again]
    assert sum(rewards) / 12 == table["eval/reward"]


FORM = [
    "prompt.rendering=text",
    "prompt.dialects=[hermes, pythonic]",
    "train.model=tiny",
    "train.warm_start.episodes=8",
    "train.steps=0",
    "train.rollout.max_turn_tokens=7",
    "train.evaluation.tasks=4",
    "train.evaluation.temperature=0.5",
    "train.evaluation.base_tasks=0",
    "train.checks.preflight=off",
]


@pytest.fixture(scope="module")
def formed(tmp_path_factory):
    """Return a run with another form of the prompt than the YAML's, and the folder of the YAML."""
    place = tmp_path_factory.mktemp("formed")
    env = find_env("guess")
    shutil.copytree(env.parent / "guess", place / "guess")
    shutil.copy(env, place)
    words = [str(place / "guess.yaml"), *FORM, "--out", str(place / "runs"), "--name", "r"]
    assert main(["train", *words]) == 0
    return RunFolder.open(place / "runs" / "r"), place / "guess.yaml"


def evaluated(env, policy, out, *more):
    """Return the messages of each episode of `envgym eval`."""
    episodes = out / "episodes.jsonl"
    episodes.unlink(missing_ok=True)
    words = [str(env), "--policy", policy, "--tasks", "4", "--json", "--episodes", str(episodes)]
    assert main(["eval", *words, *more]) == 0
    return by_task(json.loads(line) for line in episodes.read_text().splitlines())


def test_an_adapter_plays_with_the_prompt_sampling_and_limits_of_its_run(formed, tmp_path, capsys):
    run, env = formed
    trained = by_task(
        json.loads(episode.to_json()) for _, phase, episode in run.episodes() if phase == "eval"
    )
    capsys.readouterr()
    for policy in (f"adapter:{run.path}", f"adapter:{run.adapter}"):
        episodes = evaluated(env, policy, tmp_path)
        # The YAML has another form of the prompt and another limit of tokens.
        assert [each["messages"] for each in episodes] == [each["messages"] for each in trained]
        assert max(sum(each["tokens"]["loss_mask"]) / each["turns"] for each in episodes) <= 7
        told = capsys.readouterr()
        assert f"{policy}: prompt.rendering: text" in told.err
        assert f"{policy}: prompt.dialects: run has [hermes, pythonic], {env} has" in told.err
        json.loads(told.out)


def test_the_run_and_its_adapter_record_the_same_rendering_and_tools(formed):
    run, _ = formed
    recorded = json.loads((run.path / "prompt.json").read_text())
    manifest = json.loads((run.adapter / "manifest.json").read_text())
    assert recorded["tools"][0]["function"]["name"]
    assert len(recorded["template_sha256"]) == 64
    assert recorded == manifest["rendering"] | {"tools": manifest["tools"]}


def test_play_shows_an_adapter_with_the_prompt_of_its_run(formed, capsys):
    run, env = formed
    assert main(["play", str(env), "--policy", f"adapter:{run.path}", "--split", "test"]) == 0
    told = capsys.readouterr()
    assert "prompt.dialects: run has [hermes, pythonic]" in told.err
    assert "<tool_call>" in told.out  # the example of the run's first dialect


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            ["prompt.dialects=[bare]"],
            "prompt.dialects: run has [hermes, pythonic], command line has [bare]",
        ),
        (["--temperature", "0"], "temperature: run has 0.5, option has 0.0"),
        (["--max-turn-tokens", "3"], "max_turn_tokens: run has 7, option has 3"),
        (["--max-context-tokens", "300"], "max_context_tokens: run has"),
    ],
)
def test_an_explicit_setting_that_differs_from_the_runs_is_used_and_told(
    formed, tmp_path, capsys, caplog, more, told
):
    run, env = formed
    capsys.readouterr()
    episodes = evaluated(env, f"adapter:{run.path}", tmp_path, *more)
    assert told in capsys.readouterr().err + caplog.text
    if more[0] == "--max-turn-tokens":
        assert max(sum(each["tokens"]["loss_mask"]) / each["turns"] for each in episodes) <= 3


def test_settings_that_agree_with_the_run_are_not_told(formed, tmp_path, capsys, caplog):
    run, env = formed
    capsys.readouterr()
    more = ["prompt.rendering=text", "prompt.dialects=[hermes, pythonic]", "--temperature", "0.5"]
    evaluated(env, f"adapter:{run.path}", tmp_path, *more)
    assert "run has" not in capsys.readouterr().err + caplog.text


def adapter_with(folder, manifest):
    """Write a folder with a manifest; its other files do not matter."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "manifest.json").write_text(manifest)
    return str(folder)


@pytest.mark.parametrize(
    ("prompt", "settings"),
    [
        ({"tools": "compact"}, ['prompt.rendering="text"']),
        ({"tools": "template"}, ['prompt.rendering="native"']),
        ({"rendering": "text", "keep_reasoning": False}, ['prompt.rendering="text"']),
        (
            {"rendering": "native", "chat_template_kwargs": {"enable_thinking": False}},
            [
                'prompt.rendering="native"',
                'prompt.chat_template_kwargs={"enable_thinking": false}',
            ],
        ),
        (
            {"rendering": "text", "dialects": ["bare"]},
            ['prompt.rendering="text"', 'prompt.dialects=["bare"]'],
        ),
        ({"rendering": "text", "dialects": ["/runs/evil.py:Act"]}, ['prompt.rendering="text"']),
    ],
)
def test_the_form_of_the_prompt_names_no_file(tmp_path, prompt, settings):
    manifest = json.dumps({"files": {}, "prompt": prompt})
    assert open_adapter.settings(adapter_with(tmp_path / "a", manifest), GUESS) == settings


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3}', '{"files": ["a"]}', "\x00"])
def test_a_damaged_manifest_is_told(tmp_path, text):
    with pytest.raises(UsageError, match=r"manifest\.json is no manifest of an adapter"):
        open_adapter.settings(adapter_with(tmp_path / "a", text), GUESS)


def test_a_run_whose_adapter_is_a_link_out_of_it_is_refused(formed, tmp_path):
    run, env = formed
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(run.config_file, copy)
    (copy / "adapter").symlink_to(run.adapter)
    assert main(["eval", str(env), "--policy", f"adapter:{copy}"]) == 2
    with pytest.raises(UsageError, match="outside of the run folder"):
        open_adapter.settings(str(copy), GUESS)


def test_a_run_without_an_adapter_is_told(formed, tmp_path, capsys):
    run, env = formed
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(run.config_file, copy)
    assert main(["eval", str(env), "--policy", f"adapter:{copy}"]) == 2
    assert "Give a finished run" in capsys.readouterr().err
