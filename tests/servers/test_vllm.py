"""Real vLLM (CPU build): training on a server that envgym starts, and the card's command."""

import json
import os
import re
import shlex
import signal
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import torch

from envgym.registration import make_world
from envgym.spec.environment import load_spec
from envgym.tools import to_openai
from envgym_trainer.config import TrainConfig
from envgym_trainer.inference import open_engine
from envgym_trainer.inference.token_session import SamplingSettings
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.load import load_model, resolve
from envgym_trainer.model.lora import attach_lora
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.launch import start
from tests.fakes.dialogues import gap, talk, together
from tests.fakes.trap_worlds import scramble

pytestmark = pytest.mark.servers

ON_A_CPU = ["--dtype", "float32", "--no-enable-chunked-prefill", "--enforce-eager"]
"""Flags that each server on a CPU needs."""


def servers_of(vllm):
    """Return the processes that run `vllm serve` of this executable."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if str(vllm) in words[:3] and "serve" in words and "guard.py" not in " ".join(words[:4]):
            found.append(int(path.name))
    return found


@pytest.fixture(scope="module")
def adapted():
    """Return the built-in `tiny` with a random adapter, and its chat."""
    base, tokenizer = load_model("tiny", device="cpu")
    model = attach_lora(base, rank=8, alpha=16, seed=0)
    scramble(model, 1)
    return model, Chat(tokenizer, model=base)


def opened(adapted, folder, **options):
    model, chat = adapted
    config = TrainConfig.model_validate(
        {
            "model": "tiny",
            "lora": {"rank": 8},
            "rollout": {"max_context_tokens": 600},
            "engine": {"vllm": options},
        }
    )
    return open_engine(config, model=model, chat=chat, folder=folder)


def test_the_engine_keeps_the_contract_on_a_real_server_also_when_it_is_killed(
    vllm, adapted, tmp_path
):
    model, chat = adapted
    engine = opened(adapted, tmp_path, start=True, command=str(vllm))
    try:
        base_trace = talk(engine.policy(max_new_tokens=6), seed=0).trace()
        engine.load_adapter(model)
        policy = engine.policy(max_new_tokens=6)
        traces = [d.trace() for d in together(lambda n: talk(policy, seed=n), 16)]
        assert max(gap(model, trace) for trace in traces) < 1e-4
        with model.disable_adapter():
            assert gap(model, base_trace) < 1e-4
        _check_callback(engine, chat)
        for pid in servers_of(vllm):
            os.kill(pid, signal.SIGKILL)
        again = [d.trace() for d in together(lambda n: talk(policy, seed=n), 16)]
        assert [trace.token_ids for trace in again] == [trace.token_ids for trace in traces]
        assert _largest_difference(again, traces) < 1e-4
    finally:
        engine.close()
    assert servers_of(vllm) == []
    assert [path.name for path in tmp_path.iterdir()] == ["vllm.log"]


def _check_callback(engine, chat):
    """Check that streaming samples the same tokens, and that the callback may end a turn."""
    ids = chat.open([])
    settings = SamplingSettings(max_new_tokens=6, stop_ids=frozenset())
    whole = engine.open_tokens(ids, seed=1, sampling=settings).sample()
    seen = []
    cut = engine.open_tokens(ids, seed=1, sampling=settings).sample(
        on_token=lambda token, logprob: seen.append(token) or len(seen) == 3
    )
    assert cut.token_ids == tuple(seen) == whole.token_ids[:3]


def _largest_difference(traces, others):
    pairs = zip(traces, others, strict=True)
    return max(
        (torch.tensor(a.logprobs) - torch.tensor(b.logprobs)).abs().max().item() for a, b in pairs
    )


def test_the_command_of_the_guide_starts_a_server_to_train_on(vllm, adapted, serve, tmp_path):
    guide = Path(__file__).parents[2] / "docs" / "guides" / "engines.md"
    section = guide.read_text().split("## A vLLM server of your own")[1]
    command = re.findall(r"```bash[^\n]*\n(.*?)```", section, re.DOTALL)[0]
    words = shlex.split(command.replace("\\\n", " "))
    at = words.index("vllm")
    words[at : at + 3] = [str(vllm), "serve", str(resolve("tiny").path)]
    url = serve(["env", *words, *ON_A_CPU, "--max-model-len", "600", "--host", "127.0.0.1"])
    model, _ = adapted
    engine = opened(adapted, tmp_path / "served", url=url)
    try:
        engine.load_adapter(model)
        assert gap(model, talk(engine.policy(max_new_tokens=6), seed=0).trace()) < 1e-4
    finally:
        engine.close()
    models = httpx.get(f"{url}/v1/models").json()["data"]
    assert len(models) == 1  # the adapter is gone


@pytest.fixture(scope="module")
def trained(vllm, tmp_path_factory):
    """Return the folder of a short run whose server was killed once."""
    folder = tmp_path_factory.mktemp("runs")
    killed = threading.Event()

    def kill_during_grpo():
        log = folder / "r" / "metrics.jsonl"
        while not (log.is_file() and '"grpo"' in log.read_text()):
            time.sleep(0.2)
        for pid in servers_of(vllm):
            os.kill(pid, signal.SIGKILL)
        killed.set()

    threading.Thread(target=kill_during_grpo, daemon=True).start()
    settings = [
        f"train.engine={{vllm: {{start: true, command: '{vllm}'}}}}",
        "train.steps=3",
        "train.warm_start.episodes=320",
        "train.rollout.groups_per_step=4",
        "train.rollout.group_size=4",
        "train.evaluation.tasks=8",
        "train.evaluation.base_tasks=0",
    ]
    assert start("guess", settings, out=folder, name="r", resume=None) == 0
    assert killed.is_set()
    return RunFolder.open(folder / "r")


def test_a_run_on_a_managed_server_agrees_with_the_trainer_and_loses_no_step(trained):
    steps = [line for line in trained.metrics() if line["phase"] == "grpo"]
    assert [line["step"] for line in steps] == [steps[0]["step"] + n for n in range(3)]
    assert all(line["off_policy/mismatch_max"] <= 1e-5 for line in steps if line["grad_norm"] > 0)
    assert any(line["grad_norm"] > 0 for line in steps)
    assert all(line.get("group/void_members", 0) == 0 for line in steps)
    assert [path.name for path in (trained.path / "served").iterdir()] == ["vllm.log"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return the folder of a short run with the trainer's own engine, for its card."""
    folder = tmp_path_factory.mktemp("exported")
    settings = ["train.steps=0", "train.evaluation.tasks=8", "train.evaluation.base_tasks=0"]
    assert start("guess", settings, out=folder, name="card", resume=None) == 0
    return RunFolder.open(folder / "card")


def card_command(run, vllm):
    """Return the vLLM command of the adapter's card, for this executable and a CPU."""
    card = (run.adapter / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", card, re.DOTALL)
    (command,) = (block for block in blocks if "vllm serve" in block)
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    words[words.index("vllm")] = str(vllm)
    return [*words, *ON_A_CPU, "--max-model-len", "2048", "--host", "127.0.0.1"]


def test_the_command_of_the_card_gives_a_plain_client_the_trained_prompt_and_its_call(
    exported, vllm, serve
):
    url = serve(["env", "-C", str(exported.adapter), *card_command(exported, vllm)])
    models = [entry["id"] for entry in httpx.get(f"{url}/v1/models").json()["data"]]
    assert exported.path.name in models
    spec = load_spec("guess")
    episodes = [episode for _, phase, episode in exported.episodes() if phase == "eval"]
    episode = next(each for each in episodes if each.tokens and each.success)
    with closing(make_world(spec)) as world:
        task = world.tasks.task(episode.task_id)
        tools = to_openai(list(world.tools_of(task).values()))
    user = next(m.content for m in episode.messages if m.role == "user")
    system = spec.prompt.system
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    request = {"model": exported.path.name, "messages": messages, "tools": tools}
    ids = httpx.post(f"{url}/tokenize", json=request, timeout=60).json()["tokens"]
    sampled = episode.tokens.loss_mask.index(True)
    assert tuple(ids) == episode.tokens.token_ids[:sampled]
    body = request | {"temperature": 0, "max_tokens": 16, "tool_choice": "auto"}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "guess"
    assert json.loads(call["function"]["arguments"]).keys() == {"number"}
