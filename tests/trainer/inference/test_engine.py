"""The engine samples the tokens and logprobs of the plain model, independently of the batch."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from envgym.errors import UsageError, WorldFailure
from envgym.messages import Message
from envgym.policies import Dialogue, Policy
from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.inference.in_process.kv_cache import KeyValues
from envgym_trainer.model.chat import Chat
from tests.fakes.dialogues import (
    SYSTEM,
    assert_greedy_as_generate,
    failure_of,
    gap,
    talk,
    together,
    turns_of,
    user,
)
from tests.fakes.small_models import byte_tokenizer, small_llama


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def model(tokenizer):
    return small_llama(tokenizer)


@pytest.fixture
def engine(model, tokenizer):
    with InProcessEngine(
        model, Chat(tokenizer, model=model), max_context=600, max_batch=8
    ) as engine:
        yield engine


def test_the_policy_and_its_dialogues_keep_the_contract(engine):
    policy = engine.policy()
    assert isinstance(policy, Policy)
    assert isinstance(policy.open([user("x")], (), seed=0), Dialogue)


def test_greedy_turns_equal_generate_token_for_token_in_ragged_batches(model, engine):
    policy = engine.policy(temperature=0.0, max_new_tokens=9)
    for dialogue in together(lambda n: talk(policy, seed=n, words="long " * n), 8):
        assert len(turns_of(dialogue.trace())) == 3
        assert_greedy_as_generate(model, dialogue.trace(), limit=9)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_logprobs_equal_a_fresh_forward_over_all_turns(model, engine, temperature):
    policy = engine.policy(temperature=temperature, max_new_tokens=12)
    for dialogue in together(lambda n: talk(policy, seed=n), 8):
        assert gap(model, dialogue.trace(), temperature) < 1e-4


def test_who_else_is_in_the_batch_changes_no_token(model, tokenizer, engine):
    policy = engine.policy(max_new_tokens=12)
    crowd = together(lambda n: talk(policy, seed=n, words="long " * n).trace().token_ids, 8)
    with InProcessEngine(model, Chat(tokenizer, model=model), max_context=600) as other:
        alone = [
            talk(other.policy(max_new_tokens=12), seed=n, words="long " * n).trace().token_ids
            for n in range(8)
        ]
    assert crowd == alone


def test_the_seed_decides_what_is_sampled(engine):
    policy = engine.policy(max_new_tokens=12)
    opening = [SYSTEM, user("the same")]
    ids = [
        talk(policy, seed=seed, opening=opening, turns=1).trace().token_ids for seed in (1, 1, 2)
    ]
    assert ids[0] == ids[1] != ids[2]


def test_dialogues_without_a_system_message_and_with_different_ones_share_a_batch(model, engine):
    openings = [
        [user("no system")],
        [SYSTEM, user("one")],
        [Message("system", "Another."), user("two")],
        [user("none again")],
    ]
    policy = engine.policy(max_new_tokens=10)
    for dialogue in together(lambda n: talk(policy, seed=n, opening=openings[n % 4]), 8):
        assert gap(model, dialogue.trace()) < 1e-4


def test_more_dialogues_than_rows_are_served_in_turn_and_stay_right(model, tokenizer):
    with InProcessEngine(
        model, Chat(tokenizer, model=model), max_context=600, max_batch=3
    ) as engine:
        policy = engine.policy(max_new_tokens=6)
        dialogues = [policy.open([SYSTEM, user(str(n))], (), seed=n) for n in range(7)]
        for _ in range(2):  # one thread: all seven stay open, and four of them lose their rows
            for dialogue in dialogues:
                dialogue.reply()
                dialogue.observe([Message("tool", "ok")])
        assert max(gap(model, dialogue.trace()) for dialogue in dialogues) < 1e-4


def test_a_prompt_longer_than_a_step_is_computed_in_parts(model, tokenizer):
    with InProcessEngine(
        model, Chat(tokenizer, model=model), max_context=1000, max_step_tokens=50
    ) as engine:
        policy = engine.policy(max_new_tokens=6)
        for dialogue in together(
            lambda n: talk(policy, seed=n, opening=[SYSTEM, user("word " * 30 * (n + 1))], turns=2),
            4,
        ):
            assert gap(model, dialogue.trace()) < 1e-4


def test_a_turn_ends_at_its_stop_token_which_is_part_of_what_was_sampled(model, engine):
    completions = together(
        lambda n: engine.policy(max_new_tokens=400).open([user(f"{n}")], (), seed=n).reply(), 8
    )
    stopped = [completion for completion in completions if completion.stop_reason == "stop"]
    assert stopped
    assert all(completion.token_ids[-1] in engine.chat.stop_ids for completion in stopped)
    assert all("<|im_end|>" not in completion.text for completion in stopped)
    assert all(len(completion.token_ids) == len(completion.logprobs) for completion in completions)


def test_a_turn_cut_by_its_length_is_ended_with_a_token_that_is_not_trained(engine):
    dialogue = engine.policy(temperature=0.0, max_new_tokens=3).open([user("x")], (), seed=0)
    assert dialogue.reply().stop_reason == "length"
    dialogue.observe([user("y")])
    trace = dialogue.trace()
    ((_, end),) = turns_of(trace)
    assert engine.chat.decode(trace.token_ids[end : end + 1]) == ""
    assert trace.token_ids[end] in engine.chat.stop_ids
    assert not any(trace.loss_mask[end:])


def test_the_sampled_ids_stand_in_the_trace_unchanged(engine):
    dialogue = engine.policy(max_new_tokens=8).open([SYSTEM, user("x")], (), seed=5)
    said = [dialogue.reply()]
    dialogue.observe([Message("tool", "y")])
    said.append(dialogue.reply())
    trace = dialogue.trace()
    found = [(trace.token_ids[a:b], trace.logprobs[a:b]) for a, b in turns_of(trace)]
    assert found == [(completion.token_ids, completion.logprobs) for completion in said]


def test_a_dialogue_stops_where_its_context_ends(model, tokenizer):
    with InProcessEngine(model, Chat(tokenizer, model=model), max_context=60) as engine:
        dialogue = engine.policy(temperature=0.0, max_new_tokens=500).open([user("x")], (), seed=0)
        assert dialogue.reply().stop_reason == "context"
        assert len(dialogue.trace().token_ids) == 60
        dialogue.observe([user("y")])
        assert dialogue.reply().stop_reason == "context"
        assert engine.policy().open([user("x" * 99)], (), seed=0).reply().token_ids == ()


def test_a_second_reply_without_an_observation_is_refused(engine):
    dialogue = engine.policy(max_new_tokens=2).open([user("x")], (), seed=0)
    dialogue.reply()
    with pytest.raises(UsageError, match="observe"):
        dialogue.reply()


def test_two_hundred_interleaved_dialogues_do_not_cross(model, tokenizer):
    with InProcessEngine(
        model, Chat(tokenizer, model=model), max_context=400, max_batch=16
    ) as engine:
        policy = engine.policy(max_new_tokens=4)
        clock = random.Random(0)
        pauses = [clock.random() / 200 for _ in range(200)]

        def play(n: int):
            nonce = f"nonce-{n:03d}-{n * 7919 % 1000:03d}"
            dialogue = policy.open([SYSTEM, user(nonce)], (), seed=n)
            for _ in range(2):
                dialogue.reply()
                threading.Event().wait(pauses[n])
                dialogue.observe([Message("tool", nonce)])
            dialogue.close()
            return nonce, dialogue.trace()

        with ThreadPoolExecutor(24) as pool:
            played = list(pool.map(play, range(200)))
    for nonce, trace in played:
        assert tokenizer.decode(trace.token_ids).count(nonce) == 3
        assert gap(model, trace) < 1e-4


def test_closed_dialogues_give_their_rows_back(model, tokenizer):
    with InProcessEngine(
        model, Chat(tokenizer, model=model), max_context=400, max_batch=2
    ) as engine:
        for n in range(10):
            dialogue = talk(engine.policy(max_new_tokens=2), seed=n, turns=1)
            dialogue.close()
            dialogue.close()
        assert engine._scheduler.plan(100) == []  # rows are taken back between two passes
        assert engine._scheduler._free == [0, 1]


def test_a_failing_forward_voids_who_waits_and_the_engine_goes_on(model, engine, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of memory")

    policy = engine.policy(temperature=0.0, max_new_tokens=4)
    survivor = policy.open([SYSTEM, user("survivor")], (), seed=0)
    survivor.reply()
    with monkeypatch.context() as patch:
        patch.setattr(engine._passes, "logits", broken)
        for failure in together(lambda n: failure_of(lambda: talk(policy, seed=n)), 4):
            assert (failure.kind, failure.stage) == ("policy_failed", "policy")
            assert "out of memory" in failure.message
    survivor.observe([user("again")])
    survivor.reply()
    assert gap(model, survivor.trace()) < 1e-4


def test_memory_that_runs_out_while_the_stores_grow_leaves_them_usable(model, engine, monkeypatch):
    def half_grown(store, rows, tokens):
        store.keys = [key.new_zeros(*key.shape[:2], 4096, key.shape[3]) for key in store.keys]
        raise MemoryError("no room for the values")

    with monkeypatch.context() as patch:
        patch.setattr(KeyValues, "reserve", half_grown)
        assert "no room" in failure_of(lambda: talk(engine.policy(), seed=0)).message
    assert gap(model, talk(engine.policy(max_new_tokens=4), seed=0).trace()) < 1e-4


def test_closing_the_engine_frees_who_waits(model, tokenizer):
    engine = InProcessEngine(model, Chat(tokenizer, model=model), max_context=2000)
    policy = engine.policy(max_new_tokens=1900)
    with ThreadPoolExecutor(2) as pool:
        waiting = [
            pool.submit(lambda n=n: policy.open([user("x")], (), seed=n).reply()) for n in range(2)
        ]
        while not engine.statistics.steps:
            threading.Event().wait(0.005)
        engine.close()
        for future in waiting:
            error = future.exception(timeout=30)
            assert error is None or (
                isinstance(error, WorldFailure) and error.kind == "policy_failed"
            )
    with pytest.raises(WorldFailure, match="closed"):
        policy.open([user("x")], (), seed=0).reply()


def test_a_dialogue_longer_than_the_model_is_refused(tokenizer):
    with pytest.raises(UsageError, match="max_context is 600, but this llama model supports 128"):
        InProcessEngine(
            small_llama(tokenizer, max_position_embeddings=128), Chat(tokenizer), max_context=600
        )


@pytest.mark.model
def test_the_real_model_answers_as_generate_does_and_knows_its_logprobs():
    from envgym_trainer.model.load import load_model

    model, tokenizer = load_model("smollm2-135m-instruct", device="cpu")
    with InProcessEngine(model, Chat(tokenizer, model=model), max_context=512) as engine:
        opening = [
            [Message("system", "Answer briefly."), user(text)]
            for text in ("The capital of France?", "Count to three.")
        ]
        for policy, check in (
            (
                engine.policy(temperature=0.0, max_new_tokens=10),
                lambda trace: assert_greedy_as_generate(model, trace, limit=10),
            ),
            (
                engine.policy(max_new_tokens=10),
                lambda trace: gap(model, trace) < 1e-4 or pytest.fail("logprobs differ"),
            ),
        ):
            for dialogue in together(
                lambda n, p=policy: talk(p, seed=n, opening=opening[n % 2], turns=2), 4
            ):
                check(dialogue.trace())
