"""The trainer's benchmarks do the work that they say: the same for both sides, the same gradient for both layouts."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from envgym_trainer.models import resolve

ROOT = Path(__file__).parents[2]
WORK = {"tasks": 1, "group": 2, "turns": 2, "turn_tokens": 4, "tool_tokens": 40, "prompt_tokens": 250, "micro_batch": 2}


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("side", ["ours", "peer"])
def test_each_side_samples_and_reads_exactly_what_is_asked_for(side):
    if side == "peer" and importlib.util.find_spec("trl") is None:
        pytest.skip("NOT TESTED, no trl: pip install 'envgym[parity]'")
    paths = [str(ROOT / "benchmarks"), str(ROOT), str(ROOT / "trainer")]
    command = [sys.executable, "-m", f"steps.{side}", json.dumps(WORK), str(resolve("smollm2-135m-instruct").path), "1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["prompt_tokens"] == 250
    assert measured["sampled_tokens"] == 1 * 2 * 2 * 4
    assert measured["all_tokens"] == 2 * (250 + 2 * 4 + 40)
    assert 0 < measured["sampling_cpu_seconds"] < measured["cpu_seconds"]


@pytest.mark.slow
def test_both_layouts_of_the_learner_make_the_same_update():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "trainer")])}
    command = [sys.executable, str(ROOT / "benchmarks/learner.py"), "--quick", "--model", "tiny"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *sizes, _cpu, _tree, _ratio, _low, _to, _high, tokens, _memory, gap = done.stdout.splitlines()[1].split()
    assert sizes == ["24", "8", "4"]
    assert float(tokens) == pytest.approx(4 * 32 / (24 + 4 * 8), abs=0.1)
    assert float(gap) < 1e-4
