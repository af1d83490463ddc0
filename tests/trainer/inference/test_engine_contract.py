"""Contract of every engine in the folder, and training with an engine from a custom file."""

import re
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from envgym.errors import SpecError, UsageError, WorldFailure
from envgym.messages import Message
from envgym.policies import Dialogue, Policy
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.engine import engines
from envgym_trainer.inference import Engine, EngineStatistics, open_engine
from envgym_trainer.inference.token_session import SamplingSettings
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.lora import attach_lora
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.launch import start
from tests.fakes.dialogues import SYSTEM, gap, talk, turns_of, user
from tests.fakes.small_models import byte_tokenizer, small_llama
from tests.fakes.trap_worlds import scramble
from tests.fakes.vllm_server import StandIn, serving

TOKENIZER = byte_tokenizer()
MODEL = attach_lora(small_llama(TOKENIZER), rank=8, alpha=16, seed=0)
CHAT = Chat(TOKENIZER, model=MODEL.get_base_model())


@contextmanager
def opened(name, folder, **rollout):
    """Open the engine as a run does, over its own server if it needs one."""
    settings = {"engine": name, "rollout": {"max_context_tokens": 600, **rollout}}
    with serving(StandIn(small_llama(TOKENIZER))) as url:
        if name != "in_process":
            settings["engine"] = {name: {"url": url}}
        config = TrainConfig.model_validate(settings)
        engine = open_engine(config, model=MODEL, chat=CHAT, folder=folder)
        try:
            yield engine
        finally:
            engine.close()


SAMPLERS = sorted({*engines()} - {"openai"})
"""Engines that sample token ids."""


@pytest.fixture(params=SAMPLERS)
def engine(request, tmp_path):
    with opened(request.param, tmp_path) as engine:
        yield engine


def base_gap(trace) -> float:
    with MODEL.disable_adapter():
        return gap(MODEL, trace)


def test_the_folder_holds_these_engines():
    assert sorted(engines()) == ["in_process", "openai", "vllm"]


def test_it_is_an_engine_whose_policy_and_dialogues_keep_the_gyms_contract(engine):
    assert isinstance(engine, Engine)
    assert isinstance(engine.policy(), Policy)
    assert isinstance(engine.policy().open([user("x")], (), seed=0), Dialogue)
    assert isinstance(engine.statistics, EngineStatistics)


def test_sampled_ids_and_logprobs_stand_unchanged_in_the_trace_and_are_the_models(engine):
    dialogue = engine.policy(max_new_tokens=6).open([SYSTEM, user("x")], (), seed=5)
    completions = [dialogue.reply()]
    dialogue.observe([Message("tool", "y")])
    completions.append(dialogue.reply())
    trace = dialogue.trace()
    found = [(trace.token_ids[a:b], trace.logprobs[a:b]) for a, b in turns_of(trace)]
    assert found == [(each.token_ids, each.logprobs) for each in completions]
    assert base_gap(trace) < 1e-4


def test_the_seed_decides_the_tokens(engine):
    opening = [SYSTEM, user("the same")]
    policy = engine.policy(max_new_tokens=8)
    ids = [talk(policy, seed=n, opening=opening).trace().token_ids for n in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2]


def test_a_loaded_adapter_is_sampled_until_the_base_is_loaded_again(engine):
    scramble(MODEL, 1)
    base = talk(engine.policy(max_new_tokens=6), seed=0).trace()
    engine.load_adapter(MODEL)
    adapted = talk(engine.policy(max_new_tokens=6), seed=0).trace()
    engine.sleep()
    engine.load_adapter()
    assert talk(engine.policy(max_new_tokens=6), seed=0).trace() == base
    assert gap(MODEL, adapted) < 1e-4 < base_gap(adapted)


def test_a_turn_ends_at_its_limit_at_a_stop_id_and_where_the_context_ends(engine):
    greedy = engine.policy(max_new_tokens=3, temperature=0.0).open([user("x")], (), seed=0)
    first = greedy.reply()
    assert (first.stop_reason, len(first.token_ids)) == ("length", 3)
    stop = frozenset({first.token_ids[1]})
    policy = engine.policy(max_new_tokens=3, temperature=0.0, stop_ids=stop)
    stopped = policy.open([user("x")], (), seed=0).reply()
    assert (stopped.stop_reason, stopped.token_ids) == ("stop", first.token_ids[:2])
    long = engine.policy(max_new_tokens=900, stop_ids=frozenset()).open([user("x")], (), seed=0)
    assert long.reply().stop_reason == "context"
    assert len(long.trace().token_ids) == engine.max_context
    long.observe([user("y")])
    assert long.reply().token_ids == ()


def test_a_session_in_token_ids_is_the_dialogue_without_messages(engine):
    opening = [SYSTEM, user("x")]
    dialogue = engine.policy(max_new_tokens=5).open(opening, (), seed=5)
    first = dialogue.reply()
    dialogue.observe([Message("tool", "y")])
    second = dialogue.reply()
    ids = dialogue.trace().token_ids
    start = len(CHAT.open(opening))
    between = ids[start + len(first.token_ids) : len(ids) - len(second.token_ids)]
    session = engine.open_tokens(ids[:start], seed=5, sampling=SamplingSettings(max_new_tokens=5))
    turns = [session.sample()]
    session.extend(between)
    turns.append(session.sample())
    assert [turn.token_ids for turn in turns] == [first.token_ids, second.token_ids]
    assert session.trace().token_ids == ids
    assert base_gap(session.trace()) < 1e-4
    session.close()
    session.close()


def test_the_callback_gets_each_token_and_may_end_the_turn(engine):
    ids = CHAT.open([user("x")])
    settings = SamplingSettings(max_new_tokens=6, stop_ids=frozenset())
    whole = engine.open_tokens(ids, seed=1, sampling=settings).sample()
    seen = []

    def watch(token, logprob):
        seen.append((token, logprob))
        return len(seen) == 4

    session = engine.open_tokens(ids, seed=1, sampling=settings)
    turn = session.sample(on_token=watch)
    assert seen == list(zip(turn.token_ids, turn.logprobs, strict=True))
    assert (turn.stop_reason, turn.token_ids) == ("stop", whole.token_ids[:4])
    assert session.trace().token_ids == (*ids, *turn.token_ids)
    session.extend([5])
    assert len(session.sample(max_new_tokens=2).token_ids) == 2


def test_a_callback_that_fails_ends_its_own_turn_only(engine):
    def fail(token, logprob):
        raise ValueError("gone")

    ids = CHAT.open([user("x")])
    settings = SamplingSettings(max_new_tokens=3, stop_ids=frozenset())
    with pytest.raises(ValueError, match="gone"):
        engine.open_tokens(ids, seed=1, sampling=settings).sample(on_token=fail)
    assert len(engine.open_tokens(ids, seed=1, sampling=settings).sample().token_ids) == 3


def test_a_seed_or_settings_of_one_turn_act_from_this_turn_on(engine):
    ids = CHAT.open([user("x")])
    session = engine.open_tokens(ids, seed=1, sampling=SamplingSettings(max_new_tokens=4))
    again = engine.open_tokens(ids, seed=2, sampling=SamplingSettings(max_new_tokens=4))
    assert again.sample(seed=1).token_ids == session.sample().token_ids
    greedy = SamplingSettings(temperature=0.0, max_new_tokens=4)
    for each, seed in ((session, 8), (again, 9)):
        each.extend([7])
        each.sample(sampling=greedy, seed=seed)
    assert session.trace().token_ids == again.trace().token_ids


def test_a_second_reply_without_an_observation_is_refused(engine):
    dialogue = engine.policy(max_new_tokens=2).open([user("x")], (), seed=0)
    dialogue.reply()
    with pytest.raises(UsageError, match="observe"):
        dialogue.reply()
    dialogue.close()
    dialogue.close()


@pytest.mark.parametrize("settings", [{"temperature": -1.0}, {"max_new_tokens": 0}])
def test_settings_that_cannot_be_sampled_with_are_refused(engine, settings):
    with pytest.raises(UsageError, match="at least"):
        engine.policy(**settings)


def test_a_closed_engine_voids_the_episode(engine):
    dialogue = engine.policy(max_new_tokens=2).open([user("x")], (), seed=0)
    engine.close()
    engine.close()
    with pytest.raises(WorldFailure) as caught:
        dialogue.reply()
    assert (caught.value.kind, caught.value.stage) == ("policy_failed", "policy")


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_deterministic_run_gets_an_engine_that_supports_lockstep_or_is_refused(name, tmp_path):
    with opened(name, tmp_path) as engine:
        supports_lockstep = engine.supports_lockstep
    if supports_lockstep:
        with opened(name, tmp_path, deterministic=True) as engine:
            engine.add_in_flight(1)
            reply = engine.policy(max_new_tokens=2).open([user("x")], (), seed=0).reply()
            assert reply.stop_reason == "length"
    else:
        told = f"needs an engine with supports_lockstep, such as in_process: {name}"
        with pytest.raises(UsageError, match=told), opened(name, tmp_path, deterministic=True):
            pass


GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "engines.md"
(OWN,) = re.findall(r'```python title="plain_engine.py"\n(.*?)```', GUIDE.read_text(), re.DOTALL)
PARTS = "def brief(evidence): return len(evidence.final_message) / 100\n"  # so that rewards differ


def test_an_engine_from_a_file_trains_a_step_by_its_name(tmp_path):
    (tmp_path / "plain_engine.py").write_text(OWN)
    (tmp_path / "parts.py").write_text(PARTS)
    settings = [
        "train.model=tiny",
        "train.warm_start.episodes=16",
        "train.steps=1",
        "train.rollout.groups_per_step=1",
        "train.rollout.group_size=3",
        "train.evaluation.tasks=2",
        "train.evaluation.base_tasks=0",
        "train.checks.preflight=off",
        f"train.engine={{name: '{tmp_path}/plain_engine.py:open_engine'}}",
        "train.optimizer.learning_rate=1e-2",
        f"reward.brief={{from: {tmp_path}/parts.py:brief, weight: 1.0}}",
    ]
    assert start("guess", settings, out=tmp_path, name="r", resume=None) == 0
    run = RunFolder.open(tmp_path / "r")
    (step,) = [line for line in run.metrics() if line["phase"] == "grpo"]
    assert step["grad_norm"] > 0
    assert step["off_policy/mismatch_max"] < 1e-4


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("own.py:missing", SpecError, "no 'missing' in own.py"),
        ("own.py:no_engine", UsageError, "returned a int, which is no engine. Derive the class"),
        ("absent.py:engine", SpecError, r"absent\.py: no such file"),
    ],
)
def test_a_name_that_is_no_engine_is_refused(name, error, message, tmp_path):
    (tmp_path / "own.py").write_text("def no_engine(inputs): return 1\n")
    config = TrainConfig.model_validate({"engine": {"name": name}})
    with pytest.raises(error, match=message):
        open_engine(config, model=MODEL, chat=CHAT, folder=tmp_path, root=tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "in_proces"},
            "did you mean 'in_process'. Available: in_process, openai, vllm, or",
        ),
        ({"name": "in_process", "url": "http://x"}, "engine.url is now train.engine.vllm.url"),
        ({"name": "vllm_server"}, r"is now vllm. Write engine: \{vllm: \{url"),
        ("vllm", "needs an address"),
        ({"vllm": {}}, "needs either start: true, or url"),
        ({"vllm": {"start": True, "url": "http://x"}}, "needs either start: true, or url"),
        ({"vllm": {"url": "http://x", "sleep": True}}, "sleep has no effect with url"),
        ({"vllm": {"start": True, "key": "x"}}, "key has no effect with start: true"),
        ({"vllm": {"url": "http://x"}, "openai": {"url": "http://x"}}, "vllm, openai. Leave one"),
        ({"name": "a.py:f", "vllm": {"url": "http://x"}}, "a.py:f, vllm. Leave one"),
        ({"name": "in_process", "options": {"a": 1}}, "options belongs to an engine of your own"),
    ],
)
def test_the_block_refuses_unknown_engines_and_options(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig.model_validate({"engine": settings})


def test_the_engine_of_a_dtype_of_its_own_says_so(engine):
    assert engine.dtype in (None, torch.bfloat16)
