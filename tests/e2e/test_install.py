"""The README's two ways to install and run: pip without torch, and make."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command, **options):
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        **options,
    )


@pytest.mark.slow
def test_pip_installs_the_gym_alone_and_it_works_without_torch(tmp_path):
    python = tmp_path / "venv/bin/python"
    assert run(sys.executable, "-m", "venv", tmp_path / "venv").returncode == 0
    installed = run(python, "-m", "pip", "install", "--quiet", ROOT)
    if "No matching distribution" in installed.stderr or "Connection" in installed.stderr:
        pytest.skip(f"no package index answers here: {installed.stderr.strip().splitlines()[-1]}")
    assert installed.returncode == 0, installed.stderr
    assert run(python, "-c", "import torch", cwd=tmp_path).returncode != 0
    typed = (
        "from importlib.util import find_spec; from pathlib import Path\n"
        "for name in ('envgym', 'envgym_trainer'):\n"
        "    assert (Path(find_spec(name).origin).parent / 'py.typed').exists(), name\n"
    )
    done = run(python, "-c", typed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    command = python.parent / "envgym"
    done = run(
        command, "eval", "guess", "--policy", "oracle", "--tasks", "4", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert '"successes": 4' in done.stdout
    refused = run(command, "eval", "guess", "--policy", "model:tiny", cwd=tmp_path)
    assert refused.returncode == 3
    assert "pip install" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_make_train_trains_with_what_it_installed(tmp_path):
    if not (ROOT / ".venv/bin/.installed").exists():
        pytest.skip(
            "this checkout was not set up by make (no .venv/bin/.installed); "
            "`make test` runs this test"
        )
    settings = (
        "train.warm_start.episodes=8 train.steps=1 train.rollout.groups_per_step=1 "
        "train.rollout.group_size=2 train.evaluation.tasks=2"
    )
    done = run(
        "make",
        "train",
        "MODEL=tiny",
        "ENV=envs/guess.yaml",
        f"SET={settings} --out {tmp_path}",
        cwd=ROOT,
        env=os.environ,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        "base model",
        "warm start",
        "trained",
        "tensorboard --logdir",
        "vllm serve",
        "adapter",
    ):
        assert words in done.stdout
    assert (tmp_path / "guess/adapter/adapter_model.safetensors").exists()
