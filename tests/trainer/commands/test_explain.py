"""`envgym explain` shows the terms of a reward and of an advantage, as recorded by the run."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import yaml
from rich.console import Console

from envgym.commands import main
from envgym.errors import SpecError, UsageError
from envgym.spec.yaml_file import apply_overrides, read_yaml
from envgym.terms import PENALTY
from envgym_trainer.algorithms import attribution as breakdown
from envgym_trainer.commands.explain import print_episode, print_overview, shortened, summed
from envgym_trainer.run.explain import OTHERS, Explanation, explain, overview, plain
from envgym_trainer.run.folder import RunFolder
from tests.fakes.shop_env import write as write_shop
from tests.trainer.learner.test_mismatch_run import SETTINGS, WORDY
from tests.trainer.rollout.test_group_scorer import PARTS
from tests.trainer.training.test_train import run

MORE = """
def turn(evidence):
    '''1.0 for every turn.'''
    return 1.0
"""
MIXED = [
    "reward.words={from: parts.py:words, weight: 0.05, scale: running}",
    (
        "reward.long={from: parts.py:longest, weight: {0: 0.5, 2: 1.5}, "
        "range: [-1, 1], grounded: false}"
    ),
    "reward.turn={from: parts.py:turn, weight: 0.1, per: turn}",
    "reward.polite={from: parts.py:words, gate: solved, clip: [0, 2]}",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run two steps after a warm start of two steps, with one reward part of each kind."""
    root = tmp_path_factory.mktemp("explain")
    (root / "parts.py").write_text(PARTS + MORE)
    (root / "rewards.py").write_text(WORDY)
    settings = [
        *SETTINGS,
        *MIXED,
        "train.warm_start.episodes=8",
        "train.steps=2",
        "train.reward_weights={mode: spread, rate: 0.5}",
    ]
    return run(root / "runs" / "shop", *settings, env=str(write_shop(root)))[1]


def shown(folder, name):
    """Explain an episode with the descriptions in the files of the environment."""
    return explain(folder, name, env=folder.facts()["env"])


@pytest.fixture
def folder(finished, tmp_path):
    """Copy the finished run, so that a test may damage it."""
    shutil.copytree(finished.path, tmp_path / "run")
    return RunFolder.open(tmp_path / "run")


def printed(explained):
    console = Console(file=io.StringIO(), width=160)
    if isinstance(explained, Explanation):
        print_episode(explained, console=console)
    else:
        print_overview(explained, console=console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def cells(text):
    """Return the words of each line by its first word: name -> cells of a table."""
    return {row[0]: row for line in text.splitlines() if (row := line.split())}


def recorded(folder, name):
    return folder.find_episodes([name])[name]


def change(folder, edit):
    """Rewrite every line of `episodes.jsonl`."""
    lines = [json.loads(line) for line in folder.episodes_file.read_text().splitlines()]
    for line in lines:
        edit(line)
    folder.episodes_file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_numbers_that_are_printed_add_up_to_reward_and_advantage(finished):
    for each in overview(finished):
        episode = recorded(finished, each.episode)
        explained = explain(finished, each.episode)
        lines = cells(printed(explained))
        rows = [lines[part.name] for part in explained.parts]
        total = lines["sum"]
        for column, whole in ((-2, episode.reward), (-1, episode.advantage)):
            numbers = [row[column] for row in rows if row[column] != "-"]
            # whole units, without floating-point noise
            units = [round(float(number) * 10_000) for number in numbers]
            assert sum(units) == round(float(total[column]) * 10_000)
            assert float(total[column]) == pytest.approx(whole, abs=1e-4)


def test_json_is_the_record_to_the_last_bit(finished):
    for each in overview(finished):
        episode = recorded(finished, each.episode)
        found = plain(explain(finished, each.episode))
        assert (found["reward"], found["advantage"]) == (episode.reward, episode.advantage)
        parts = {part["name"]: part for part in found["parts"]}
        for name, term in episode.reward_terms.items():
            given = parts[name]
            assert (given["raw"], given["value"], given["weight"]) == (
                term.raw,
                term.value,
                term.weight,
            )
            assert (given["contribution"], given["by_turn"]) == (term.contribution, term.by_turn)
            assert given["advantage"] == episode.advantage_parts.get(name, 0.0)
        assert set(episode.advantage_parts) <= set(parts)
    assert [each.episode for each in overview(finished)] == [f"4:{n}" for n in range(1, 9)]


def test_each_part_tells_its_rule_its_range_its_gate_and_its_weights(finished):
    found = {part.name: part for part in shown(finished, "4:1").parts}
    long = found["long"]
    polite = found["polite"]
    assert long.rule == "1 for the episode with the longest last message of its group."
    assert (long.source, long.is_grounded, long.range) == ("parts.py:longest", False, (-1.0, 1.0))
    assert long.schedule == {0: 0.5, 2: 1.5}
    # the second step after the warm start is step 1: half of the ramp
    assert long.weight_of_config == 1.0
    assert long.weight != 1.0  # `spread` re-weighted it after the first step
    assert found["solved"].is_grounded is True
    assert polite.clip == (0.0, 2.0)
    assert polite.gate == {"on": "solved", "at_least": 1.0, "is_open": False}
    assert (found["words"].scale, found["turn"].by_turn) == (
        "running",
        tuple(1.0 for _ in found["turn"].by_turn),
    )
    text = printed(shown(finished, "4:1"))
    assert "weight by schedule {0: 0.5, 2: 1.5}: 1 at GRPO step 1" in text
    assert f"weight {long.weight:.4g} from train.reward_weights; 1 in the settings" in text
    assert (
        "long: 1 for the episode with the longest last message of its group. "
        "(from parts.py:longest, not grounded)" in text
    )
    assert "gate on solved >= 1: closed" in text
    assert "by turn: 1: 1" in text
    assert "closed" in cells(text)["polite"]


def test_a_part_of_a_group_shows_what_its_siblings_said_and_got(finished):
    episode = recorded(finished, "4:2")
    found = {part.name: part for part in shown(finished, "4:2").parts}["long"]
    names = [vote["episode"] for vote in found.siblings]
    assert "4:2" in names
    assert all(recorded(finished, name).task_id == episode.task_id for name in names)
    assert len(names) in (4, 8)  # eight if both groups drew the same task
    for vote in found.siblings:
        sibling = recorded(finished, vote["episode"])
        assert vote["value"] == sibling.reward_terms["long"].value
        assert (
            vote["said"]
            == [message for message in sibling.messages if message.role == "assistant"][-1].content
        )
    assert {vote["raw"] for vote in found.siblings} == {0.0, 1.0}
    assert re.search(r"^  > +4:2 ", printed(shown(finished, "4:2")), flags=re.MULTILINE)


def test_without_an_episode_those_of_the_last_step_are_listed(finished):
    rows = cells(printed(overview(finished)))
    for each in overview(finished):
        episode = recorded(finished, each.episode)
        shares = episode.advantage_parts
        assert each.largest is None or abs(shares[each.largest]) == max(map(abs, shares.values()))
        assert rows[each.episode][1:3] == [episode.task_id, f"{episode.reward:.4f}"]


def test_the_command_prints_both_without_loading_torch(finished):
    code = (
        "import sys; from importlib import metadata\n"
        "point = metadata.EntryPoint('trainer', 'envgym_trainer.commands', 'envgym.commands')\n"
        "import envgym.commands; "
        "metadata.entry_points = lambda group: [point] * (group == 'envgym.commands')\n"
        "assert envgym.commands.main(['explain', sys.argv[1], *sys.argv[2:]]) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    for words, told in (([], "4:1"), (["3:1"], "episode 3:1 of")):
        command = [sys.executable, "-c", code, str(finished.path), *words]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
        )
        assert done.returncode == 0, done.stderr
        assert told in done.stdout


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


def test_json_of_the_command_is_one_document(finished, command):
    code, out, _ = command(finished.path, "4:2", "--json")
    assert code == 0
    assert json.loads(out)["reward"] == recorded(finished, "4:2").reward
    _, out, _ = command(finished.path, "--json")
    assert [each["episode"] for each in json.loads(out)] == [f"4:{n}" for n in range(1, 9)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("4:9", r"no episode 4:9\. Step 4 has 8 episodes, 4:1 to 4:8"),
        ("4:0", r"no episode 4:0\. Step 4 has 8 episodes"),
        ("1:1", r"no episodes of step 1\. .*for steps 3 to 4"),  # a step of the warm start
        ("third", r"'third' is no episode name.*such as 12:3.*envgym explain "),
    ],
)
def test_an_episode_that_is_not_there_is_told_with_those_that_are(finished, command, name, message):
    code, out, error = command(finished.path, name)
    assert (code, out) == (2, "")
    assert re.search(message, error)


def test_a_folder_that_is_no_run_and_a_run_without_episodes_are_told(folder, tmp_path, command):
    code, _, error = command(tmp_path / "nowhere")
    assert code == 2
    assert "is not a run folder" in error
    folder.episodes_file.unlink()
    code, _, error = command(folder.path)
    assert code == 2
    assert "no training episode is recorded yet" in error


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


def test_every_name_beside_the_parts_has_its_rule():
    assert set(OTHERS) == {
        PENALTY,
        breakdown.REST,
        breakdown.REWARD,
        breakdown.OVERLONG,
        breakdown.MISTAKES,
    }


def test_thirds_are_printed_so_that_they_make_a_whole():
    assert summed([1 / 3] * 3) == ["0.3334", "0.3333", "0.3333", "1.0000"]
    assert summed([-0.25, None, 0.75], sign=True) == ["-0.2500", "-", "+0.7500", "+0.5000"]
    assert summed([None]) == ["-", "-"]


def test_long_words_keep_their_end():
    assert shortened("so\n the answer is 42", limit=9) == "...wer is 42"


def test_an_episode_fits_a_terminal_of_eighty_columns(finished):
    console = Console(file=io.StringIO(), width=80)
    print_episode(explain(finished, "4:1"), console=console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    head = next(line for line in printed.splitlines() if "contribution" in line)
    assert head.split() == [
        "part",
        "raw",
        "range",
        "gate",
        "value",
        "weight",
        "contribution",
        "advantage",
    ]
