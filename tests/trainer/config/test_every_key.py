"""Every key of the `train:` block has an effect.

Each leaf of the schema has a row in `key_table.ROWS`: a value other than its default, the settings
in which it matters, and its visible effect. The test fails for a key without a row and for a key
whose run equals the run without it. Runs with the same settings are done once.
"""

import hashlib
from dataclasses import dataclass

import gymnasium
import pytest
import torch
from rich.console import Console

from envgym_trainer.config import TrainConfig
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.launch import resolve, run_training
from tests.fakes.quiz_env import TASKS
from tests.trainer.config.key_table import (
    BASE,
    CHAT,
    FEEDBACK,
    PARTS,
    QUIZ,
    ROWS,
    VALIDATED,
    Chat,
)
from tests.trainer.config.schema import leaves


@dataclass(frozen=True)
class Seen:
    numbers: tuple[dict[str, str], ...]
    """Metrics of each line, episodes and the trained weights, as text."""
    files: tuple[str, ...]


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    """Return a function that trains with some settings and returns the run's files."""
    folder = tmp_path_factory.mktemp("every_key")
    (folder / "chat.yaml").write_text(CHAT)
    (folder / "quiz.yaml").write_text(QUIZ)
    (folder / "quiz_tasks.py").write_text(TASKS)
    (folder / "parts.py").write_text(PARTS)
    (folder / "likes.jsonl").write_text(FEEDBACK)
    gymnasium.register("envgym-test/EveryKey-v0", entry_point=Chat)

    known = {}

    def run(env, *settings, again=False):
        if (env, settings) not in known or again:
            known[env, settings] = train(env, settings)
        return known[env, settings]

    def train(env, settings):
        Chat.running = Chat.most_at_once = 0
        full = [s if s.startswith("reward.") else f"train.{s}" for s in (*BASE, *settings)]
        full = [setting.replace("FOLDER", str(folder)) for setting in full]
        spec, config, _ = resolve(str(folder / f"{env}.yaml"), full)
        target = RunFolder.create(tmp_path_factory.mktemp("run"), "r")
        run_training(spec, config, target, console=Console(quiet=True))
        return seen(target)

    yield run
    del gymnasium.registry["envgym-test/EveryKey-v0"]


def seen(folder):
    lines = [{name: repr(value) for name, value in line.items()} for line in folder.metrics()]
    episodes = {
        f"episode {n}": repr((phase, e.task_id, e.reward, e.advantage, e.reward_parts, e.tokens))
        for n, (_, phase, e) in enumerate(folder.episodes())
    }
    files = sorted(str(path.relative_to(folder.path)) for path in folder.path.rglob("*"))
    rest = episodes | {"adapter": weights(folder), "most at once": str(Chat.most_at_once)}
    return Seen((*lines, rest), tuple(file for file in files if "events" not in file))


def weights(folder):
    """Return the hash of the adapter in the last checkpoint, or an empty string without one."""
    found = folder.latest_checkpoint()
    if found is None:
        return ""
    state = torch.load(found[1] / "learner.pt", weights_only=True)["adapter"]
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode() + value.float().numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def timings(play):
    """Return the metrics that differ between two equal runs: times and memory."""
    first = play("quiz", *VALIDATED)
    again = play("quiz", *VALIDATED, again=True)
    pairs = zip(first.numbers, again.numbers, strict=True)
    found = {name for one, two in pairs for name in one if one[name] != two[name]}
    assert found
    assert not any(name.startswith(("episode ", "adapter", "reward", "loss")) for name in found)
    return found


def without(numbers, names):
    return [
        {
            name: text
            for name, text in line.items()
            if name not in names and not name.startswith(("time/", "sandbox/", "eval/sandbox/"))
        }
        for line in numbers
    ]


def test_every_key_has_a_row_and_every_row_a_key():
    assert sorted(ROWS) == sorted(leaves(TrainConfig))


def test_the_top_of_the_block_is_short():
    assert len(TrainConfig.model_fields) == 17


@pytest.mark.parametrize("key", ROWS)
def test_every_key_acts(key, play, timings):
    row = ROWS[key]
    setting = f"{key}={row.value}"
    if row.shows not in ("number", "file"):
        with pytest.raises(Exception, match=row.shows):
            play(row.env, *row.within, setting)
        return
    before = play(row.env, *row.within)
    after = play(row.env, *row.within, setting)
    if row.shows == "file":
        assert after.files != before.files
    else:
        assert without(after.numbers, timings) != without(before.numbers, timings)
