"""The trainer's benchmarks compare equal work: equal tokens and equal gradients in all layouts."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from envgym_trainer.model.load import resolve

ROOT = Path(__file__).parents[2]
WORK = {
    "tasks": 1,
    "group": 2,
    "turns": 2,
    "turn_tokens": 4,
    "tool_tokens": 40,
    "prompt_tokens": 250,
    "micro_batch": 2,
}


def python(*arguments):
    """Run code that can import the benchmarks' modules. Return its output."""
    paths = [str(ROOT / "benchmarks"), str(ROOT), str(ROOT / "trainer")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def measure(module, work, model):
    return json.loads(
        python("-m", module, json.dumps(work), str(resolve(model).path), "1").splitlines()[-1]
    )


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("side", ["ours", "peer"])
def test_each_side_samples_and_reads_exactly_what_is_asked_for(side):
    if side == "peer" and importlib.util.find_spec("trl") is None:
        pytest.skip("NOT TESTED, no trl: pip install 'envgym[parity]'")
    measured = measure(f"steps.{side}", WORK, "smollm2-135m-instruct")
    assert measured["prompt_tokens"] == 250
    assert measured["sampled_tokens"] == 1 * 2 * 2 * 4
    assert measured["all_tokens"] == 2 * (250 + 2 * 4 + 40)
    assert 0 < measured["sampling_cpu_seconds"] < measured["cpu_seconds"]


@pytest.mark.slow
def test_both_layouts_of_the_learner_make_the_same_update():
    table = python(str(ROOT / "benchmarks/learner.py"), "--quick", "--model", "tiny")
    *sizes, _cpu, _tree, _ratio, _low, _to, _high, tokens, _memory, gap = table.splitlines()[
        1
    ].split()
    assert sizes == ["24", "8", "4"]
    assert float(tokens) == pytest.approx(4 * 32 / (24 + 4 * 8), abs=0.1)
    assert float(gap) < 1e-4


@pytest.mark.slow
def test_keeping_little_makes_the_update_of_keeping_all():
    group = {"layout": "tree", "prompt": 24, "response": 8, "size": 4}
    little, everything = (
        measure("steps.learn", group | {"keeps": keeps}, "tiny") for keeps in ("little", "all")
    )
    assert little["grad_norm"] == pytest.approx(everything["grad_norm"], rel=1e-4)
    # the last token is not read
    assert little["forward_tokens"] == everything["forward_tokens"] == 24 + 4 * 7


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("side", ["engine", "generate", "products"])
def test_each_sampler_draws_the_tokens_that_are_asked_for(side):
    load = {
        "side": side,
        "dialogues": 4,
        "group": 2,
        "turns": 2,
        "turn_tokens": 3,
        "tool_tokens": 40,
        "prompt_tokens": 60,
    }
    # lengths are asserted in the benchmark itself
    assert measure("steps.sample", load, "smollm2-135m-instruct")["tokens"] == 4 * 2 * 3


def test_an_exponent_is_that_of_the_power_law_it_is_read_from():
    code = "from scale import exponent; print(exponent((1, 2, 4), (3.0, 12.0, 48.0)))"
    assert float(python("-c", code)) == pytest.approx(2.0)


@pytest.mark.slow
def test_the_benchmark_for_gpus_runs_in_miniature():
    said = python(str(ROOT / "benchmarks/gpu.py"), "--quick")
    assert said.count("dialogues:") == 2
    assert "MFU" in said


def test_rewards_are_compared_from_one_warm_start(tmp_path):
    table = python(str(ROOT / "benchmarks/rewards.py"), "--quick", "--out", str(tmp_path))
    assert [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][
        2:
    ] == ["SFT", "coarse", "gated"]
    gated = [
        json.loads(line)
        for line in (tmp_path / "gated-seed0" / "episodes.jsonl").read_text().splitlines()
    ]
    terms = [each["reward_terms"] for each in gated if each["phase"] == "grpo"]
    assert terms
    assert all(each["brief"]["gate_is_open"] == (each["solved"]["value"] == 1.0) for each in terms)
