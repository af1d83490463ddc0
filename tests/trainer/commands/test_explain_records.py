"""Explanations of old, foreign, void and incomplete records; no code of a run is executed."""

import json
import shutil
import sys
from importlib.metadata import EntryPoint

import pytest
import yaml

from envgym.commands import main
from envgym.errors import SpecError, UsageError
from envgym.spec.yaml_file import apply_overrides, read_yaml
from envgym_trainer.run.explain import OTHERS, explain, overview
from envgym_trainer.run.folder import RunFolder
from tests.fakes.shop_env import write as write_shop
from tests.trainer.commands.explained import cells, printed, recorded


@pytest.fixture
def folder(finished, tmp_path):
    """Copy the finished run, so that a test may damage it."""
    shutil.copytree(finished.path, tmp_path / "run")
    return RunFolder.open(tmp_path / "run")


def change(folder, edit):
    """Rewrite every line of `episodes.jsonl`."""
    lines = [json.loads(line) for line in folder.episodes_file.read_text().splitlines()]
    for line in lines:
        edit(line)
    folder.episodes_file.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def command(monkeypatch, capsys):
    """Run `envgym explain`. Return the exit code, the output and the errors."""
    point = EntryPoint("trainer", "envgym_trainer.commands", "envgym.commands")
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda group: [point] * (group == "envgym.commands")
    )

    def run(*words):
        code = main(["explain", *map(str, words)])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def test_a_run_of_an_earlier_version_is_told_what_it_lacks(folder):
    change(
        folder,
        lambda line: [line.pop(name) for name in ("reward_terms", "advantage", "advantage_parts")],
    )
    with pytest.raises(
        UsageError,
        match=r"4:1 has no 'reward_terms'.*\(solved, calls, .*Train again, or continue with",
    ):
        explain(folder, "4:1")
    # the list still shows the remaining episodes
    assert {each.largest for each in overview(folder)} == {None}


def test_without_the_environment_the_record_alone_is_shown(folder):
    alone = explain(folder, "4:1")
    long = {part.name: part for part in alone.parts}["long"]
    assert (long.rule, long.source) == ("", "parts.py:longest")
    assert long.contribution == recorded(folder, "4:1").reward_terms["long"].contribution
    assert {part.name: part for part in alone.parts}["solved"].rule  # it ships with envgym
    (note,) = alone.notes
    assert "No description of wordy (rewards.py:wordy), words (parts.py:words), long" in note
    assert "--env ENV.yaml" in note
    folder.config_file.write_text("id: [\n")
    bare = explain(folder, "4:1")
    assert bare.reward == alone.reward
    assert {part.source for part in bare.parts} == {None}
    assert "only recorded numbers are shown" in printed(bare)


def test_an_environment_that_does_not_have_a_part_any_more_is_told(folder, tmp_path):
    (tmp_path / "new").mkdir()
    write_shop(tmp_path / "new")
    env = tmp_path / "new" / "shop.yaml"
    (note,) = explain(folder, "4:1", env=str(env)).notes
    assert "long (parts.py:longest)" in note
    assert f"not found in the files of {env}" in note
    with pytest.raises(SpecError, match=r"gone\.yaml: no such file"):
        explain(folder, "4:1", env="gone.yaml")


def test_a_step_is_explained_by_the_settings_that_it_had(folder):
    assert {part.name: part for part in explain(folder, "4:1").parts}[
        "turn"
    ].weight_of_config == 0.1
    folder.add_change(3, ["reward.turn.weight=0.7"])
    assert {p.name: p for p in explain(folder, "3:1").parts}["turn"].weight_of_config == 0.1
    assert {p.name: p for p in explain(folder, "4:1").parts}["turn"].weight_of_config == 0.7


MARKS = """
from pathlib import Path

Path({marker!r}).write_text("code was run")

def act(*arguments, **options):
    '''Innocent.'''
    return 1.0

Act = act
"""
HOSTILE = {
    "a part in the run folder": "reward.long={from: evil.py:act}",
    "a part by its absolute path": "reward.long={from: FOLDER/evil.py:act}",
    "a part above the folder": "reward.long={from: ../run/evil.py:act}",
    "a part in a module": "reward.long={from: evil:act}",
    "a part in a package": "reward.long={from: pack.inner:act}",
    "options of a part": "reward.long={from: evil.py:act, options: {x: !!str evil.py:act}}",
    "a dialect": "prompt.dialects=[FOLDER/evil.py:Act]",
    "tasks": "tasks.from=evil.py",
    "tools": "tools=[evil.py]",
    "state": "state.seed=evil.py:act",
    "a sandbox": "sandbox.backend=evil.py:Act",
    "a foreign environment": "gym=evil:Act",
    "a loss": "train.algorithm.loss.name=FOLDER/evil.py:act",
    "an advantage": "train.algorithm.advantage.name=FOLDER/evil.py:act",
    "a plan": "train.plan.name=FOLDER/evil.py:Act",
    "an engine": "train.engine.name=FOLDER/evil.py:Act",
}


@pytest.fixture
def hostile(folder, tmp_path, monkeypatch):
    """Put code that leaves a mark into a run folder; return the folder and the path of the mark."""
    marker = tmp_path / "marker"
    code = MARKS.format(marker=str(marker))
    (folder.path / "evil.py").write_text(code)
    (folder.path / "pack").mkdir()
    (folder.path / "pack" / "__init__.py").write_text(code)
    (folder.path / "pack" / "inner.py").write_text(code)
    (folder.path / "shop.yaml").write_text(folder.config_file.read_text())
    facts = folder.facts() | {"env": str(folder.path / "shop.yaml")}
    folder.facts_file.write_text(json.dumps(facts))
    monkeypatch.chdir(folder.path)
    monkeypatch.syspath_prepend(str(folder.path))
    return folder, marker


def with_setting(folder, setting):
    """Put a setting into `config.yaml`, without the checks of an environment."""
    data, where = read_yaml(folder.config_file)
    apply_overrides(data, where, [setting.replace("FOLDER", str(folder.path))])
    folder.config_file.write_text(yaml.safe_dump(data))


@pytest.mark.parametrize("setting", HOSTILE.values(), ids=HOSTILE)
def test_looking_at_a_foreign_run_executes_nothing_of_it(hostile, setting, command):
    folder, marker = hostile
    with_setting(folder, setting)
    for words in ([], ["4:1"], ["4:1", "--json"]):
        code, _, error = command(folder.path, *words)
        assert (code, error) == (0, "")
    assert not marker.exists()
    assert not {"evil", "pack", "pack.inner"} & sys.modules.keys()


@pytest.mark.parametrize(
    "source", ["evil.py:act", "pack/inner.py:act", "evil:act", "pack.inner:act"]
)
def test_even_the_files_of_a_named_environment_are_read_and_not_executed(hostile, source):
    folder, marker = hostile
    with_setting(folder, f"reward.long={{from: {source}}}")
    found = explain(folder, "4:1", env=str(folder.path / "shop.yaml"))
    assert {part.name: part for part in found.parts}["long"].rule == "Innocent."
    assert not marker.exists()


def test_a_change_of_settings_in_a_foreign_run_executes_nothing(hostile, command):
    folder, marker = hostile
    folder.add_change(0, [f"prompt.dialects=[{folder.path}/evil.py:Act]"])
    assert command(folder.path, "4:1")[0] == 0
    folder.changes_file.write_text('{"step": 1}\n[1]\n')
    code, out, _ = command(folder.path, "4:1")
    assert code == 0
    assert "only recorded numbers are shown" in out
    assert not marker.exists()


def test_a_void_episode_says_how_the_world_broke(folder):
    void = {
        "failure": {"kind": "timeout", "stage": "call", "message": "slow"},
        "reward": None,
        "success": None,
    }
    change(
        folder,
        lambda line: line.update(
            void | {"reward_terms": {}, "advantage": None, "advantage_parts": {}}
        ),
    )
    text = printed(explain(folder, "4:1"))
    assert "void: timeout in call: slow. It has no reward" in text
    assert overview(folder)[0].reward is None


def test_a_foreign_environment_has_its_reward_as_the_only_part(folder):
    folder.config_file.write_text(
        folder.config_file.read_text().replace("gym: null", "gym: tests.fakes.echo_env:Echo-v0")
    )
    change(
        folder,
        lambda line: line.update(reward_terms={}, advantage_parts={"reward": line["advantage"]}),
    )
    found = explain(folder, "4:1")
    episode = recorded(folder, "4:1")
    [part] = found.parts
    assert (part.name, part.contribution, part.advantage) == (
        "reward",
        episode.reward,
        episode.advantage,
    )
    assert part.rule == OTHERS["reward"]


def test_what_changes_the_advantage_only_has_no_contribution(folder):
    change(
        folder,
        lambda line: (
            line["advantage_parts"].update(overlong=-0.5) if line.get("advantage_parts") else None
        ),
    )
    found = {part.name: part for part in explain(folder, "4:1").parts}["overlong"]
    assert (found.contribution, found.weight, found.advantage) == (None, None, -0.5)
    assert cells(printed(explain(folder, "4:1")))["overlong"][-2:] == ["-", "-0.5000"]
