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
from rich.console import Console

from envgym.commands import main
from envgym_trainer.commands.explain import print_episode
from envgym_trainer.run.explain import explain, overview, plain
from envgym_trainer.run.folder import RunFolder
from tests.trainer.commands.explained import cells, printed, recorded


def shown(folder, name):
    """Explain an episode with the descriptions in the files of the environment."""
    return explain(folder, name, env=folder.facts()["env"])


@pytest.fixture
def folder(finished, tmp_path):
    """Copy the finished run, so that a test may damage it."""
    shutil.copytree(finished.path, tmp_path / "run")
    return RunFolder.open(tmp_path / "run")


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
