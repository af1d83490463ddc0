"""The self-training environment passes its checks, and its toy shows long-run effects of voting."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from envgym.env import ToolWorld
from envgym.errors import PrerequisiteError
from envgym.evaluation.checks import check
from envgym.evaluation.checks.fixture import CheckFixture
from envgym.evaluation.checks.grader import wrong_field
from envgym.modules import load_file
from envgym.rewards.scoring.answer_normalization import find_reading
from envgym.spec.environment import load_spec

ROOT = Path(__file__).parents[3]
puzzles = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None,
    reason="NOT TESTED, no reasoning-gym: pip install 'envgym[puzzles]'",
)


@pytest.fixture
def world():
    opened = ToolWorld(load_spec("selftrain"))
    yield opened
    opened.close()


def play(world, task_id, said):
    env = world.env()
    opening, info = env.reset(options={"task": task_id})
    assert info["tools"] == []
    _, reward, terminated, _, info = env.step(said)
    assert terminated
    return reward, info["success"]


@puzzles
@pytest.mark.slow
def test_it_passes_every_check():
    results = check(load_spec("selftrain"), tasks_per_split=10)
    assert len(results) == 17
    assert [result for result in results if not result.passed] == []


@puzzles
def test_the_answer_in_a_box_is_what_counts_however_it_is_written(world):
    bits, knights = (world.tasks.task(f"test/{name}/0") for name in ("bits_0", "knights_0"))
    number = int(bits.extra["answer"], 16)
    assert play(world, bits.id, f"Thinking of 7. \\boxed{{{number}}}") == (1.0, True)
    assert play(world, bits.id, f"\\boxed{{{number + 1}}}") == (0.0, False)
    assert play(world, bits.id, str(number)) == (0.0, False)
    first, second = knights.extra["answer"].removesuffix(".").split(", and ")
    assert play(world, knights.id, f"\\boxed{{{second} and {first}}}") == (1.0, True)
    assert play(world, knights.id, f"\\boxed{{{first}}}") == (0.0, False)


@puzzles
def test_a_question_belongs_to_one_split_by_its_own_text(world):
    from reasoning_gym import create_dataset

    split_of = load_file(ROOT / "envs/selftrain/tasks.py").split_of
    for split in ("train", "val", "test"):
        tasks = [world.tasks.task(task_id) for task_id in world.tasks.ids(split, count=36)]
        assert {split_of(task.prompt) for task in tasks} == {split}
        assert {task.level for task in tasks} == {"L0", "L1", "L2", "L3"}
    drawn = create_dataset("knights_knaves", seed=1, size=200)
    shares = [
        sum(split_of(item["question"]) == split for item in drawn) / 200
        for split in ("train", "val", "test")
    ]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.1)


@puzzles
def test_levels_are_harder_by_what_they_are_made_of(world):
    make = world.tasks.task
    assert [
        make(f"train/knights_{level}/3").extra["answer"].count(" is ") for level in range(4)
    ] == [2, 3, 4, 5]
    depth = lambda prompt: max(
        prompt.count("(", 0, at) - prompt.count(")", 0, at) for at in range(len(prompt))
    )
    assert [
        max(
            depth(make(f"train/bits_{level}/{index}").prompt.splitlines()[-1]) for index in range(8)
        )
        for level in range(4)
    ] == [1, 2, 3, 4]


@puzzles
def test_no_task_asks_what_the_generator_labels_wrongly(world):
    tasks = [world.tasks.task(f"train/family_3/{index}") for index in range(150)]
    relations = {task.extra["answer"] for task in tasks}
    assert {"aunt", "uncle"} <= relations
    assert not relations & {"niece", "nephew", "mother-in-law", "father-in-law"}


@puzzles
def test_every_truth_is_its_own_equal_by_its_reading(world):
    for task_id in world.tasks.ids("test", count=24):
        task = world.tasks.task(task_id)
        reading = find_reading(task.extra["reading"])
        assert reading(task.extra["answer"]) == reading(f" {task.extra['answer'].upper()} ")


def test_without_reasoning_gym_the_way_out_is_told(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'envgym\[puzzles\]'"):
        world.tasks.task("test/bits_0/0")


@puzzles
def test_a_grader_that_takes_any_words_is_found_out_where_nothing_else_can_be_wrong():
    lenient = ToolWorld(
        load_spec("selftrain", ["reward.solved={from: turns}"])
    )  # 1 for a turn, independent of the answer
    try:
        tasks = [lenient.tasks.task(task_id) for task_id in lenient.tasks.ids("test", count=24)]
        found = wrong_field(CheckFixture(lenient, {"test": tasks}))
    finally:
        lenient.close()
    assert not found.passed
    another = next(task.final for task in tasks if task.id == "test/bits_0/1")
    assert f"test/bits_0/0: reward 1, answered though it answered {another!r}" in found.detail


# --- the benchmark ---


def benchmark(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks/selftrain.py"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_pure_votes_end_in_one_answer_and_the_watch_sees_it_first():
    runs = {
        run["setting"]: run for run in map(json.loads, benchmark("--quick", "--json").splitlines())
    }
    votes = runs["votes"]
    easy = runs["votes, easiest third"]
    true = runs["true labels"]
    assert votes["modal"] > 0.9
    assert votes["end"] < 0.2 < 0.4 < votes["peak"]
    assert min(votes["alarms"].values()) < votes["lost_at"]
    for healthy in (easy, true):
        assert healthy["end"] > 0.5
        assert healthy["alarms"] == {}
