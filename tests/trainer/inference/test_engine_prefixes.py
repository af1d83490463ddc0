"""The engine computes shared beginnings of dialogues once, without changing a token."""

import time

import pytest

from envgym.messages import Message
from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.model.chat import Chat
from tests.fakes.dialogues import (
    SYSTEM,
    gap,
    in_one_step,
    least_work,
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


def test_a_groups_prompt_is_computed_once_and_serves_them_all(model, engine):
    opening = [SYSTEM, user("a task of some length, the same for the whole group")]
    group = together(
        lambda n: talk(engine.policy(max_new_tokens=4), seed=n, turns=1, opening=opening), 8
    )
    prompt = len(engine.chat.open(opening))
    # All tokens once, and the last prompt token again for each of the seven dialogues that came too
    # late to draw from the first one's logits.
    assert engine.statistics.prefill_tokens <= prompt + 7
    assert max(gap(model, dialogue.trace()) for dialogue in group) < 1e-4


GROUPS = [[SYSTEM, user(f"{task} " + "a long task of its own " * 8)] for task in range(3)]


def grouped(policy):
    """Play three groups of four with long shared prompts, all open at once."""
    return lambda index: talk(policy, seed=index, opening=GROUPS[index // 4])


def test_groups_stored_as_segments_sample_what_they_would_sample_apart(model, tokenizer):
    traces = []
    for group_size in (1, 4):
        with InProcessEngine(
            model, Chat(tokenizer, model=model), max_context=600, max_batch=12
        ) as engine:
            policy = engine.policy(max_new_tokens=8, group_size=group_size)
            traces.append(
                [dialogue.trace() for dialogue in in_one_step(engine, grouped(policy), 12)]
            )
    for apart, together_ in zip(*traces, strict=True):
        assert together_.token_ids == apart.token_ids
        assert gap(model, together_) < 1e-4


def test_a_groups_opening_is_stored_once_and_the_system_message_in_it_computed_once(model, engine):
    chat = engine.chat
    openings = [len(chat.open(opening)) for opening in GROUPS]
    shared = chat.shared(GROUPS[0], ())
    policy = engine.policy(max_new_tokens=1, group_size=4)
    dialogues = in_one_step(
        engine, lambda index: talk(policy, seed=index, opening=GROUPS[index // 4], turns=1), 8
    )
    assert engine.statistics.prefill_tokens == shared + sum(
        length - shared for length in openings[:2]
    )
    states = [dialogue.session.tokens for dialogue in dialogues]
    assert len({state.segment.row for state in states[:4]}) == 1
    # only the last prompt token is in a row of its own
    assert all(state.cached <= 1 for state in states)


def test_short_tasks_after_a_long_system_message_share_its_segment(engine):
    policy = engine.policy(max_new_tokens=1, group_size=4)
    first, second = (
        policy.open([Message("system", "rules " * 200), user(task)], (), seed=0).session.tokens
        for task in "xy"
    )
    assert first.outer == second.outer == 0
    assert first.ids[: first.shared] == second.ids[: second.shared]


def test_rows_of_segments_go_to_the_next_groups_when_a_group_is_through(model, tokenizer):
    with InProcessEngine(
        model, Chat(tokenizer, model=model), max_context=600, max_batch=4
    ) as engine:
        policy = engine.policy(max_new_tokens=4, group_size=2)
        for wave in range(12):
            opening = [SYSTEM, user(f"{wave} " + "another long task " * 10)]

            def play(seed: int, opening=opening):
                dialogue = talk(policy, seed=seed, opening=opening, turns=2)
                dialogue.close()
                return dialogue

            for dialogue in together(play, 2):
                assert gap(model, dialogue.trace()) < 1e-4
        assert engine._passes.shared.keys[0].shape[0] <= 8  # the initial reservation
        assert len(engine._scheduler._segments) <= 3


def test_a_group_is_computed_once_for_as_long_as_its_members_say_the_same(model, engine):
    opening = [SYSTEM, user("the same")]
    policies = [engine.policy(max_new_tokens=12, temperature=float(n >= 7)) for n in range(8)]
    dialogues = in_one_step(
        engine, lambda n: talk(policies[n], seed=n, opening=opening, turns=1), 8
    )

    def second_turn(n: int):
        dialogues[n].observe([Message("tool", "the same answer")])
        dialogues[n].reply()

    in_one_step(engine, second_turn, 8)
    *alike, other = traces = [dialogue.trace() for dialogue in dialogues]
    assert (
        len({trace.token_ids for trace in alike}) == 1 != len({alike[0].token_ids, other.token_ids})
    )
    assert max(gap(model, trace) for trace in traces) < 1e-4
    assert engine.statistics.computed_tokens == least_work(traces)


def test_a_sibling_goes_on_when_the_one_it_followed_has_ended(model, engine):
    opening = [SYSTEM, user("the same")]
    talk(
        engine.policy(), seed=0, turns=1
    ).close()  # leaves the system message in the cache: only the first dialogue needs a pass
    before = engine.statistics.computed_tokens
    first = engine.policy(max_new_tokens=8, temperature=0.0).open(opening, (), seed=0)

    def play(n: int):
        if n == 0:
            first.reply()
            return first.trace()
        while not engine._scheduler.turns:  # the first dialogue computes the shared prefix
            time.sleep(0.001)
        first.close()  # close it during its turn: it is gone after its last token
        return talk(
            engine.policy(max_new_tokens=30, temperature=0.0), seed=0, opening=opening, turns=1
        ).trace()

    traces = in_one_step(engine, play, 6)
    assert [sum(trace.loss_mask) for trace in traces] == [8] + [30] * 5
    assert max(gap(model, trace) for trace in traces) < 1e-4
    assert engine.statistics.computed_tokens - before == least_work(traces) - engine.chat.shared(
        opening
    )


def test_the_system_message_is_computed_once_for_different_tasks(engine):
    for n in range(4):
        talk(engine.policy(max_new_tokens=2), seed=n, turns=1).close()
    shared = engine.chat.shared([SYSTEM, user("")])
    own = sum(
        len(engine.chat.open([SYSTEM, user(f"tell me about {n}")])) - shared for n in range(4)
    )
    assert engine.statistics.prefill_tokens == shared + own


def test_a_second_turn_computes_only_what_is_new(engine):
    dialogue = engine.policy(max_new_tokens=5).open([SYSTEM, user("x")], (), seed=3)
    first = dialogue.reply()
    before = engine.statistics.prefill_tokens
    length = len(dialogue.trace().token_ids)
    dialogue.observe([Message("tool", "42")])
    dialogue.reply()
    observed = turns_of(dialogue.trace())[1][0] - length
    # the last sampled token is read in the same pass
    assert engine.statistics.prefill_tokens - before == observed + 1
    assert first.token_ids
