"""Traps 1-3, 14, 15, 19: training uses exactly the sampled tokens."""

import dataclasses
import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envgym.messages import Message
from envgym.playing import play
from envgym_trainer.batch import Sample, flat_batch
from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.prefix_tree import tree_batch
from envgym_trainer.learner.update_settings import UpdateSettings
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.tiny import build_tokenizer
from tests.fakes.small_models import byte_tokenizer, small_llama
from tests.fakes.tiny_lora import random_samples, tiny_model
from tests.fakes.trap_worlds import NonceEnv, byte_engine, say, scored_ids

END = "<|im_end|>"
small_model = functools.cache(tiny_model)


def adversarial(tokenizer) -> dict[str, list[int]]:
    """Return ids whose decoded text encodes to other ids."""
    byte = lambda char: tokenizer.convert_tokens_to_ids(char)
    return {
        "a word in pieces": [byte(char) for char in "the"],
        "spaces one by one": [byte("Ġ"), byte("Ġ"), byte("t")],
        "a stray continuation byte": [byte("Ģ"), byte("Ģ")],  # 0x80, twice: no UTF-8
        "half of a character": [byte("Ã"), tokenizer.convert_tokens_to_ids("the")],
        "a special token within the turn": [
            tokenizer.convert_tokens_to_ids("<|im_start|>"),
            byte("u"),
            byte("s"),
            byte("e"),
        ],
    }


@pytest.mark.trap(1)
@pytest.mark.parametrize("name", list(adversarial(build_tokenizer())))
def test_the_ids_in_the_batch_are_those_that_were_drawn_though_their_text_encodes_otherwise(
    name, monkeypatch
):
    tokenizer = build_tokenizer()
    drawn = [*adversarial(tokenizer)[name], tokenizer.convert_tokens_to_ids(END)]
    model = small_llama(tokenizer)
    with InProcessEngine(model, chat := Chat(tokenizer, model=model), max_context=600) as engine:
        say(monkeypatch, drawn * 2)
        episode = play(NonceEnv(turns=2), engine.policy(), seed=0, task="x")
    assert chat.answer(chat.decode(drawn)) != drawn
    sample = Sample.from_trace(episode.tokens)
    assert scored_ids(flat_batch([sample])) == scored_ids(tree_batch([sample])) == [drawn * 2]


THINKING = (  # drops the reasoning of all turns but the last, like some thinking models' templates
    "{% for m in messages %}<|head|>{{ m.role }}\n"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|head|>assistant\n{% endif %}"
)


def family(name: str) -> Chat:
    if name == "chatml":
        return Chat(byte_tokenizer())
    keeps = THINKING.replace(" if loop.last else m.content.split('</think>')[-1]", "")
    return Chat(
        byte_tokenizer(
            ("<|head|>", "<|eot|>"),
            eos="<|eot|>",
            template={"keeps": keeps, "strips": THINKING}[name],
        )
    )


def history(chat: Chat, turns: int) -> list[Message]:
    said = [Message("user", "q")]
    for turn in range(turns):
        said += [Message("assistant", f"<think>hm</think>{turn}"), Message("tool", f"{turn}")]
    return said


@pytest.mark.trap(2)
@pytest.mark.parametrize("name", ["chatml", "keeps"])
def test_the_tokens_of_a_turn_are_a_prefix_of_the_next_and_equal_a_fresh_rendering(
    name,
):
    chat = family(name)
    ids = chat.open(history(chat, 0))
    for turn in range(3):
        messages = history(chat, turn + 1)
        seen = ids
        ids = ids + chat.answer(messages[-2].content)
        ids = ids + chat.observe(messages[-1:], closed=True, history=messages[:-1])
        assert ids == chat.open(messages)
        assert ids[: len(seen)] == seen


@pytest.mark.trap(2)
def test_a_template_that_rewrites_what_was_sampled_starts_a_new_stream(monkeypatch):
    chat = family("strips")
    answer = chat.answer("<think>hm</think>42")
    with InProcessEngine(small_llama(chat.tokenizer), chat, max_context=600) as engine:
        say(monkeypatch, answer * 2)
        episode = play(NonceEnv(turns=2), engine.policy(), seed=0, task="x")
    trace = episode.tokens
    assert trace is not None
    (start,) = trace.starts
    assert trace.token_ids[start - len(answer) : start] == tuple(answer)
    assert "hm" not in chat.tokenizer.decode(trace.token_ids[start : -len(answer)])
    assert sum(trace.loss_mask) == 2 * len(answer)


@pytest.mark.trap(3)
def test_a_turn_trains_exactly_its_sampled_tokens_without_the_end_that_we_add():
    _, engine = byte_engine()
    with engine:
        before = engine.statistics.decoded_tokens
        dialogue = engine.policy(max_new_tokens=3).open([Message("user", "x")], (), seed=1)
        drawn = []
        for _ in range(4):
            drawn += dialogue.reply().token_ids
            dialogue.observe([Message("tool", "y")])
        trace = dialogue.trace()
        trained = [
            token
            for token, sampled in zip(trace.token_ids, trace.loss_mask, strict=True)
            if sampled
        ]
        assert trained == drawn
        assert len(drawn) == engine.statistics.decoded_tokens - before
        assert sum(token in engine.chat.stop_ids for token in trace.token_ids) > sum(
            token in engine.chat.stop_ids for token in drawn
        )


@pytest.mark.trap(14)
@pytest.mark.parametrize("tokenizer", [byte_tokenizer, build_tokenizer], ids=["bytes", "tiny"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_each_of_several_end_tokens_ends_the_turn_and_is_trained(tokenizer, which, monkeypatch):
    tokenizer = tokenizer()
    ends = [
        tokenizer.convert_tokens_to_ids(END),
        tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        77,
    ]
    model = small_llama(tokenizer)
    model.generation_config.eos_token_id = ends[1:]
    with InProcessEngine(model, Chat(tokenizer, model=model), max_context=300) as engine:
        say(monkeypatch, [9, ends[which], 9, 9, ends[which]])
        episode = play(NonceEnv(turns=2), engine.policy(), seed=0, task="x")
    assert episode.turns == 2
    assert scored_ids(tree_batch([Sample.from_trace(episode.tokens)])) == [
        [9, ends[which], 9, 9, ends[which]]
    ]
    assert all(message.content != "" and END not in message.content for message in episode.messages)


@pytest.mark.trap(15)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=7), min_size=2, max_size=4))
def test_a_pad_that_is_the_end_token_costs_no_end_token_its_training_or_its_place(shapes):
    end = 2
    model = small_model()
    samples = []
    for shape in shapes:  # True: an end token, False: another one; all but the first sampled
        ids = tuple(end if is_end else 5 + place for place, is_end in enumerate(shape))
        samples.append(Sample(ids, (False, *[True] * (len(ids) - 1)), (0.0,) * len(ids), 1.0))
    batch = flat_batch(samples, pad_id=end)
    assert scored_ids(batch) == [list(sample.token_ids[1:]) for sample in samples]
    with torch.no_grad():
        together = Learner(model).logprobs(batch)[0][batch.action_nodes]
        alone = [
            Learner(model).logprobs(one := flat_batch([sample], pad_id=7))[0][one.action_nodes]
            for sample in samples
        ]
    assert torch.allclose(together, torch.cat(alone), rtol=0, atol=1e-12)


@pytest.mark.trap(19)
@pytest.mark.parametrize("layout", ["flat", "tree"])
@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_nan_where_nothing_was_sampled_changes_neither_the_loss_nor_any_metric(layout, kl_coef):
    def metrics(fill: float) -> dict[str, float]:
        filled = [
            dataclasses.replace(
                s,
                old_logprobs=tuple(
                    o if m else fill for o, m in zip(s.old_logprobs, s.loss_mask, strict=True)
                ),
            )
            for s in random_samples(3)
        ]
        return Learner(tiny_model(), layout=layout).update(filled, UpdateSettings(kl_coef=kl_coef))

    clean = metrics(0.0)
    dirty = metrics(math.nan)
    assert clean == dirty
    assert clean["optimizer/skipped_updates"] == 0
    assert clean["batch/action_tokens"] == sum(sample.num_actions for sample in random_samples(3))
