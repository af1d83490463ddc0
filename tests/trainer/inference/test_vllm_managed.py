"""A vLLM server that envgym starts: its flags, its restarts and its end, over a real process."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from envgym.errors import PrerequisiteError
from envgym_trainer.config import TrainConfig
from envgym_trainer.inference import open_engine
from envgym_trainer.inference.vllm.errors import ServerGone
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.lora import attach_lora
from tests.fakes.dialogues import gap, talk
from tests.fakes.small_models import byte_tokenizer, small_llama
from tests.fakes.trap_worlds import scramble
from tests.fakes.vllm_command import ROOT, write_command

TOKENIZER = byte_tokenizer()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return a folder with a model and a stand-in for the command `vllm`."""
    folder = tmp_path_factory.mktemp("base")
    small_llama(TOKENIZER).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    write_command(folder)
    return folder


@contextmanager
def managed(base, folder, model, *, told=None, rank=8, **options):
    config = TrainConfig.model_validate(
        {
            "model": {"name": str(base)},
            "lora": {"rank": rank},
            "rollout": {"max_context_tokens": 600},
            "engine": {"vllm": {"start": True, "command": str(base / "vllm"), **options}},
        }
    )
    chat = Chat(TOKENIZER, model=model.get_base_model())
    lines = [] if told is None else told
    engine = open_engine(config, model=model, chat=chat, folder=folder, notify=lines.append)
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def model():
    model = attach_lora(small_llama(TOKENIZER), rank=8, alpha=16, seed=0)
    scramble(model, 1)
    return model


def group_of(engine):
    return engine._server.process_group


def members(group):
    """Return the processes of a group, without zombies."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            state, _, pgrp = (path / "stat").read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(pgrp) == group and state != "Z":
            found.append(int(path.name))
    return found


def kill_server(engine):
    """Kill the stand-in itself: the child of the guard, as a crash of vLLM would."""
    group = group_of(engine)
    for pid in members(group):
        if b"serve" in Path(f"/proc/{pid}/cmdline").read_bytes() and pid != group:
            os.kill(pid, signal.SIGKILL)


def test_a_server_is_started_with_what_training_needs_and_ends_with_its_group(
    base, model, tmp_path
):
    told = []
    with managed(base, tmp_path, model, told=told, arguments=["--seed", "3"]) as engine:
        engine.load_adapter(model)
        dialogue = talk(engine.policy(max_new_tokens=4), seed=0)
        group = group_of(engine)
        assert len(members(group)) == 3  # guard, server, and the server's own child
    assert gap(model, dialogue.trace()) < 1e-4
    deadline = time.monotonic() + 5
    while members(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert members(group) == []
    command = (tmp_path / "vllm.log").read_text().splitlines()[0]
    for flags in (
        f"serve {base} --served-model-name base --enable-lora --max-lora-rank 8",
        "--logprobs-mode processed_logprobs --max-model-len 600 --dtype float32",
        "--no-enable-chunked-prefill --enforce-eager --seed 3 --host 127.0.0.1 --port",
    ):
        assert flags in command
    assert told[0] == f"starting vLLM (log: {tmp_path}/vllm.log)"
    assert told[1].startswith("vLLM answers at http://127.0.0.1:")


def test_a_server_that_dies_comes_back_with_the_adapter_and_samples_the_same(base, model, tmp_path):
    with managed(base, tmp_path / "a", model) as engine:
        engine.load_adapter(model)
        whole = talk(engine.policy(max_new_tokens=4), seed=7).trace()
    told = []
    with managed(base, tmp_path / "b", model, told=told) as engine:
        engine.load_adapter(model)
        dialogue = engine.policy(max_new_tokens=4)
        kill_server(engine)
        assert talk(dialogue, seed=7).trace() == whole
        kill_server(engine)
        assert talk(dialogue, seed=7).trace() == whole
        assert len([line for line in told if "died" in line]) == 2
        folders = [path.name for path in (tmp_path / "b").iterdir() if path.is_dir()]
        assert len(folders) == 1
    assert not [path for path in (tmp_path / "b").iterdir() if path.is_dir()]


def test_a_server_that_dies_in_the_middle_of_a_request_answers_it_after_the_restart(
    base, model, tmp_path
):
    arguments = ["--die-after", "4"]
    with managed(base, tmp_path, model, arguments=arguments) as engine:
        engine.load_adapter(model)  # two completions: the proof of base and adapter
        trace = talk(engine.policy(max_new_tokens=4), seed=7).trace()
    assert gap(model, trace) < 1e-4


def test_a_server_that_dies_again_and_again_voids_and_names_its_log(base, model, tmp_path):
    with managed(base, tmp_path, model, max_restarts=1) as engine:
        kill_server(engine)
        talk(engine.policy(max_new_tokens=2), seed=0, turns=1)
        kill_server(engine)
        with pytest.raises(ServerGone, match=r"died again after 1 restarts.*vllm\.log.*--resume"):
            talk(engine.policy(max_new_tokens=2), seed=0, turns=1)


def test_a_server_sleeps_between_phases_if_it_is_asked_to(base, model, tmp_path):
    with managed(base, tmp_path, model, sleep=True) as engine:
        engine.load_adapter(model)
        engine.sleep()
        engine.load_adapter(model)
        talk(engine.policy(max_new_tokens=2), seed=0, turns=1)
    log = (tmp_path / "vllm.log").read_text()
    assert "--enable-sleep-mode" in log
    asked = [line.split()[1] for line in log.splitlines() if line.startswith("REQUEST")]
    assert asked.index("/sleep?level=1") + 1 == asked.index("/wake_up")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"command": "no-such-vllm"}, "no executable 'no-such-vllm'.*train.engine.vllm.command"),
        ({"arguments": ["--fail", "no room"]}, r"ended while it started: ValueError: no room.*log"),
        (
            {"arguments": ["--hang"], "start_timeout_seconds": 1},
            "did not start within 1 s.*start_timeout_seconds",
        ),
    ],
)
def test_a_server_that_does_not_start_is_told_with_the_remedy(base, model, tmp_path, options, told):
    with (
        pytest.raises(PrerequisiteError, match=told),
        managed(base, tmp_path, model, **options),
    ):
        pass


OWNER = """
import sys, time
from pathlib import Path
from envgym_trainer.inference.vllm.server import ManagedServer
from tests.fakes.vllm_command import write_command
base, log = map(Path, sys.argv[1:])
server = ManagedServer(
    [str(base / "vllm"), "serve", str(base), "--served-model-name", "base"],
    environment={}, log=log, start_timeout_seconds=60, max_restarts=0, notify=print,
)
print(server.process_group, flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_the_server_ends_with_its_owner_whatever_ends_that(base, tmp_path, end):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'trainer'}"}
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(base), str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    lines = iter(owner.stdout.readline, "")
    group = int(next(line for line in lines if line.strip().isdigit()))
    assert members(group)
    owner.send_signal(end)
    owner.wait()
    deadline = time.monotonic() + 20
    while members(group) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert members(group) == []
