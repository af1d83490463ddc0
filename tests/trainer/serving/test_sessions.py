"""Kept sessions give the model's logprobs, and compute only the new tokens."""

import random

import pytest

from envgym_trainer.inference import SamplingSettings
from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.model.chat import Chat
from envgym_trainer.serving.sessions import PromptHeads, SessionCache, common_length
from tests.fakes.dialogues import gap
from tests.fakes.small_models import byte_tokenizer, small_llama

TOKENIZER = byte_tokenizer()
MODEL = small_llama(TOKENIZER)
SAMPLING = SamplingSettings(1.0, 6, stop_ids=frozenset())
RNG = random.Random(0)


def ids_of(count: int) -> list[int]:
    return [RNG.randrange(3, 250) for _ in range(count)]


@pytest.fixture
def engine():
    chat = Chat(TOKENIZER, model=MODEL)
    with InProcessEngine(MODEL, chat, max_context=600, max_batch=4) as engine:
        yield engine


def ask(cache: SessionCache, ids: list[int], *, seed: int = 0, shared: int = 0):
    """Sample a turn and keep the session; return its trace and the number of cached ids."""
    session, cached = cache.open(ids, seed=seed, sampling=SAMPLING, shared=shared)
    session.sample(seed=seed, sampling=SAMPLING)
    trace = session.trace()
    cache.keep(session)
    return trace, cached


def test_the_next_turn_of_a_conversation_computes_only_its_new_ids(engine):
    cache = SessionCache(engine, 4)
    first, cached = ask(cache, ids_of(100), shared=40)
    assert cached == 0
    before = engine.statistics.prefill_tokens
    second, cached = ask(cache, [*first.token_ids, *ids_of(10)], shared=40)
    assert cached == len(first.token_ids)
    assert engine.statistics.prefill_tokens - before <= 12
    assert second.token_ids[:cached] == first.token_ids
    assert gap(MODEL, second) < 1e-4


def test_an_answer_that_is_changed_by_the_client_is_computed_again_from_the_change(engine):
    cache = SessionCache(engine, 4)
    first, _ = ask(cache, ids_of(60))
    changed = [*first.token_ids[:-3], *ids_of(20)]
    trace, cached = ask(cache, changed)
    assert cached == common_length(list(first.token_ids), changed)
    assert trace.token_ids[:-6] == tuple(changed)
    assert gap(MODEL, trace) < 1e-4


@pytest.mark.parametrize("shared", [0, 20])
def test_the_same_prompt_again_gives_the_same_tokens(shared, engine):
    cache = SessionCache(engine, 4)
    ids = ids_of(50)
    first, _ = ask(cache, ids, seed=3, shared=shared)
    again, cached = ask(cache, ids, seed=3, shared=shared)
    assert cached == 50
    assert again.token_ids == first.token_ids
    assert gap(MODEL, again) < 1e-4


def test_another_conversation_does_not_take_the_session(engine):
    cache = SessionCache(engine, 4)
    head = ids_of(45)
    first, _ = ask(cache, [*head, *ids_of(30)], shared=40)
    other, cached = ask(cache, [*head, *ids_of(30)], shared=40)
    assert cached == 0
    _, cached = ask(cache, [*first.token_ids, *ids_of(5)], shared=40)
    assert cached == len(first.token_ids)
    assert gap(MODEL, other) < 1e-4


def test_more_conversations_than_rows_go_on_correctly(engine):
    cache = SessionCache(engine, 4)
    histories = [ids_of(30 + n) for n in range(9)]
    for _ in range(3):
        for n, history in enumerate(histories):
            trace, _ = ask(cache, history, seed=n)
            assert gap(MODEL, trace) < 1e-4
            histories[n] = [*trace.token_ids, *ids_of(4)]


def test_the_head_of_a_prompt_is_its_system_message():
    chat = Chat(TOKENIZER, model=MODEL)
    heads = PromptHeads(chat)
    system = {"role": "system", "content": "Be brief."}
    messages = [system, {"role": "user", "content": "Hello"}]
    ids = chat.render(messages)
    shared = heads.shared(ids, messages, ())
    assert TOKENIZER.decode(ids[:shared]).startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert "Hello" not in TOKENIZER.decode(ids[:shared])
    assert heads.shared(ids[5:], messages, ()) == 0
    assert heads.shared(ids, messages[1:], ()) == 0


def test_the_common_length_is_that_of_a_comparison_one_by_one():
    for _ in range(300):
        left = [RNG.randrange(2) for _ in range(RNG.randrange(9))]
        right = [RNG.randrange(2) for _ in range(RNG.randrange(9))]
        slow = next(
            (n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
            min(len(left), len(right)),
        )
        assert common_length(left, right) == slow
