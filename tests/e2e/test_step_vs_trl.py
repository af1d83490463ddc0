"""The benchmark against TRL gives both sides the same work."""

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
