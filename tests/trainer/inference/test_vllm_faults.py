"""Servers that are away, slow, full or wrong: typed errors, and no request is lost to a restart."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
import torch

from envgym.errors import PrerequisiteError, UsageError, WorldFailure
from envgym_trainer.config import TrainConfig
from envgym_trainer.inference import open_engine
from envgym_trainer.inference.vllm.connection import Connection
from envgym_trainer.inference.vllm.engine import VllmEngine
from envgym_trainer.inference.vllm.errors import (
    AdapterNotActing,
    AdapterRefused,
    ServerGone,
    WrongModel,
)
from envgym_trainer.inference.vllm.proof import AdapterProof
from envgym_trainer.inference.vllm.server import RemoteServer
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.lora import attach_lora
from tests.fakes.dialogues import gap, talk, together
from tests.fakes.small_models import byte_tokenizer, small_llama
from tests.fakes.trap_worlds import scramble
from tests.fakes.vllm_server import StandIn, serving

TOKENIZER = byte_tokenizer()
NAME = re.compile(r"[A-Za-z0-9-]{1,128}")


@pytest.fixture
def model():
    model = attach_lora(small_llama(TOKENIZER), rank=8, alpha=16, seed=0)
    scramble(model, 1)
    return model


@pytest.fixture
def state():
    return StandIn(small_llama(TOKENIZER), "org/base model")


@contextmanager
def engine_at(url, model, folder, *, wait_seconds=0.0, timeout_seconds=60.0):
    chat = Chat(TOKENIZER, model=model.get_base_model())
    server = RemoteServer(url, wait_seconds=wait_seconds)
    server.connection = Connection(url, timeout_seconds=timeout_seconds)
    proof = AdapterProof(model, chat)
    limits = {"max_context": 600, "backoff_seconds": 0.01}
    engine = VllmEngine(server, chat, model=None, adapters=folder, proof=proof, **limits)
    try:
        yield engine
    finally:
        engine.close()


def one_turn(engine, *, seed=0):
    return talk(engine.policy(max_new_tokens=4), seed=seed, turns=1).trace()


# --- the adapter is proven to act


def test_a_served_adapter_that_is_the_trained_one_is_accepted(state, model, tmp_path):
    with serving(state) as url, engine_at(url, model, tmp_path) as engine:
        engine.load_adapter(model)
        assert gap(model, one_turn(engine)) < 1e-4


def test_an_adapter_without_effect_yet_is_accepted(state, tmp_path):
    fresh = attach_lora(small_llama(TOKENIZER), rank=8, alpha=16, seed=0)
    state.ignores_adapters = True
    with serving(state) as url, engine_at(url, fresh, tmp_path) as engine:
        engine.load_adapter(fresh)
        assert gap(fresh, one_turn(engine)) < 1e-4


@pytest.mark.parametrize("size", [1.0, 0.02])
def test_an_ignored_adapter_is_refused_before_a_token_is_sampled(state, model, tmp_path, size):
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.mul_(size)
    state.ignores_adapters = True
    with (
        serving(state) as url,
        engine_at(url, model, tmp_path) as engine,
        pytest.raises(AdapterNotActing, match=r"does not act as the trained one.*No step was"),
    ):
        engine.load_adapter(model)
    assert not state.adapters
    assert not list(tmp_path.iterdir())


def test_a_small_adapter_is_told_from_the_base_also_on_a_server_that_rounds(tmp_path, model):
    chat = Chat(TOKENIZER, model=model.get_base_model())
    proof = AdapterProof(model, chat)
    base = proof._base
    ours = proof._score(with_adapter=True)
    rounding = 1e-2 * torch.sin(torch.arange(len(base), dtype=torch.float32))
    proof.check_base((base + rounding).tolist(), "base")
    assert proof.bound == 1.0
    proof.check_adapter((ours + rounding).tolist(), "a")
    shrunk = AdapterProof(model, chat)
    shrunk.check_base((base + rounding).tolist(), "base")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.mul_(0.1)
    effect = (shrunk._score(with_adapter=True) - base).abs()
    assert effect.max() < 1.0 < 100 * effect.mean()
    with pytest.raises(AdapterNotActing, match="the server ignores it"):
        shrunk.check_adapter((base + rounding).tolist(), "a")


def test_another_model_under_the_same_name_is_refused_before_a_token_is_sampled(model, tmp_path):
    other = StandIn(small_llama(TOKENIZER, seed=5), "org/base model")
    with serving(other) as url, engine_at(url, model, tmp_path) as engine:
        with pytest.raises(WrongModel, match=r"'org/base model' is not the trained one.*nats"):
            one_turn(engine)
        with pytest.raises(WrongModel):
            engine.load_adapter(model)


# --- names


def test_salts_and_names_have_no_text_of_the_user(state, model, tmp_path):
    folder = tmp_path / "my run @ 50% \\ü"
    with serving(state) as url, engine_at(url, model, folder) as engine:
        one_turn(engine)
        for _ in range(2):
            engine.load_adapter(model)
            one_turn(engine)
    completions = [body for path, body in state.requests if path == "/v1/completions"]
    salts = [body["cache_salt"] for body in completions]
    assert all(NAME.fullmatch(salt) for salt in salts)
    assert len(set(salts)) == 3
    loads = [
        body["lora_name"] for path, body in state.requests if path.endswith("load_lora_adapter")
    ]
    assert all(NAME.fullmatch(name) for name in loads)
    assert {body["model"] for body in completions} == {"org/base model", *loads}


# --- restarts


def test_a_server_that_restarts_gets_the_adapter_again(state, model, tmp_path):
    with serving(state) as url, engine_at(url, model, tmp_path) as engine:
        engine.load_adapter(model)
        whole = one_turn(engine, seed=3)
        state.adapters.clear()
        assert together(lambda n: one_turn(engine, seed=3), 4) == [whole] * 4


def test_requests_wait_for_a_server_that_is_away_for_a_moment(state, model, tmp_path):
    first = ExitStack()
    url = first.enter_context(serving(state))
    with engine_at(url, model, tmp_path, wait_seconds=30) as engine:
        engine.load_adapter(model)
        whole = one_turn(engine, seed=3)
        first.close()
        state.adapters.clear()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(one_turn, engine, seed=3)
            time.sleep(1)
            with serving(state, port=int(url.rpartition(":")[2])):
                assert waiting.result(30) == whole


def test_a_server_that_stays_away_is_waited_for_once(state, model, tmp_path):
    with serving(state) as url, engine_at(url, model, tmp_path, wait_seconds=1) as engine:
        state.answer = None
        engine._server.connection = Connection("http://127.0.0.1:9")
        started = time.monotonic()
        for _ in range(3):
            with pytest.raises(ServerGone, match=r"127\.0\.0\.1:9 does not answer.*--resume"):
                engine._server.recover(0, "refused")
        assert 0.9 < time.monotonic() - started < 4


# --- slow, full, broken


def test_a_server_that_is_too_slow_voids_the_episode(state, model, tmp_path):
    answer = state.answer

    def late(path, body):
        time.sleep(1.0 if path == "/v1/completions" else 0)
        return answer(path, body)

    with serving(state) as url, engine_at(url, model, tmp_path, timeout_seconds=0.2) as engine:
        state.answer = late
        with pytest.raises(ServerGone, match="ReadTimeout"):
            one_turn(engine)


@pytest.mark.parametrize("status", [400, 500])
def test_a_server_without_room_for_the_adapter_is_told_with_the_remedy(
    state, model, tmp_path, status
):
    answer = state.answer

    def full(path, body):
        if path == "/v1/load_lora_adapter":
            return status, '{"error": {"message": "No free LoRA slots"}}'
        return answer(path, body)

    with serving(state) as url, engine_at(url, model, tmp_path) as engine:
        state.answer = full
        with pytest.raises(AdapterRefused, match=r"No free LoRA slots.*--max-cpu-loras 2"):
            engine.load_adapter(model)
    assert not list(tmp_path.iterdir())


def test_a_server_with_a_full_cache_is_asked_again(state, model, tmp_path):
    with serving(state) as url, engine_at(url, model, tmp_path) as engine:
        one_turn(engine)
        state.unavailable = 3
        assert len(one_turn(engine).token_ids) > 4


def test_a_context_that_the_server_does_not_have_ends_the_turn(state, model, tmp_path):
    answer = state.answer

    def short(path, body):
        if path == "/v1/completions" and "prompt_logprobs" not in body:
            return 400, '{"error": {"message": "maximum context length is 10 tokens"}}'
        return answer(path, body)

    with serving(state) as url, engine_at(url, model, tmp_path) as engine:
        state.answer = short
        dialogue = talk(engine.policy(max_new_tokens=4), seed=0, turns=0)
        assert dialogue.reply().stop_reason == "context"


def test_a_stream_that_breaks_off_voids_the_episode_and_before_a_token_is_asked_again(
    state, model, tmp_path
):
    answer = state.answer
    cuts = [1, 2]

    def broken(path, body):
        status, text = answer(path, body)
        if body.get("stream") and cuts:
            lines = text.split("\n\n")[: cuts.pop(0) - 1]
            return status, "\n\n".join([*lines, 'data: {"error": {"message": "engine died"}}\n\n'])
        return status, text

    with serving(state) as url, engine_at(url, model, tmp_path) as engine:
        state.answer = broken
        session = engine.policy(max_new_tokens=4).open([], (), seed=0).session
        with pytest.raises(WorldFailure, match=r"broke off.*engine died"):
            session.sample(on_token=lambda token, logprob: None)
        assert len(session.tokens.ids) > 0
        assert cuts == []


def test_a_wrong_key_is_the_users_to_mend(state, model, tmp_path):
    with serving(state, key="right") as url, pytest.raises(UsageError, match=r"refused the key"):
        engine_at(url, model, tmp_path).__enter__()


# --- openai


def test_the_engine_of_a_chat_server_refuses_to_train_at_the_start():
    config = TrainConfig.model_validate({"engine": {"openai": {"url": "http://x/v1"}}})
    with pytest.raises(UsageError, match=r"nothing can be trained.*--policy openai:URL"):
        config.checked()


def test_the_engine_of_a_chat_server_evaluates(model, tmp_path):
    asked = []

    class Chats:
        def answer(self, path, body):
            asked.append((path, body))
            if path == "/v1/models":
                return 200, '{"data": [{"id": "m"}]}'
            return 200, '{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}'

    with serving(Chats(), key="k") as url:
        config = TrainConfig.model_validate(
            {
                "steps": 0,
                "warm_start": {"episodes": 0},
                "engine": {"openai": {"url": url, "key": "k"}},
            }
        ).checked()
        chat = Chat(TOKENIZER, model=model.get_base_model())
        engine = open_engine(config, model=model, chat=chat, folder=tmp_path)
        engine.load_adapter(model)
        reply = talk(engine.policy(temperature=0.5, max_new_tokens=7), seed=4, turns=0).reply()
        assert reply.text == "hi"
        with pytest.raises(UsageError, match="samples no token ids"):
            engine.open_tokens([1], seed=0, sampling=engine.policy().sampling)
        engine.close()
    body = asked[-1][1]
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == (
        "m",
        0.5,
        7,
        4,
    )


def test_no_server_at_the_start_is_a_prerequisite(model, tmp_path):
    with pytest.raises(PrerequisiteError, match=r"no server answers.*start: true"):
        engine_at("http://127.0.0.1:9", model, tmp_path).__enter__()
