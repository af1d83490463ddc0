"""Dialogues whose chat template drops earlier reasoning continue on the rewritten prompt."""

import pytest

from envgym.messages import Message
from envgym_trainer.batch import Sample, flat_batch
from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.inference.policies.demonstration import DemoDialogue
from envgym_trainer.model.chat import Chat
from tests.fakes.chat_templates import BY_NAME
from tests.fakes.small_models import small_llama

OPENING = [Message("system", "s"), Message("user", "u")]


@pytest.fixture(scope="module")
def tokenizer():
    return BY_NAME["forgetful"].tokenizer()


def dialogue_of(engine: InProcessEngine, monkeypatch):
    """Play two turns; the first answer is replaced by one with reasoning."""
    texts = ["<think>\nhm\n</think>\n\nSo.", "Yes."]
    monkeypatch.setattr(engine.chat, "decode", lambda ids: texts.pop(0))
    policy = engine.policy(temperature=1.0, max_new_tokens=5)
    dialogue = policy.open(OPENING, [], seed=0)
    first = dialogue.reply()
    dialogue.observe([Message("user", "v")])
    return first, dialogue.reply(), dialogue


def test_a_rewritten_turn_starts_a_new_stream_and_each_sampled_token_is_trained_once(
    tokenizer, monkeypatch
):
    chat = Chat(tokenizer, rendering="native", dialects=["hermes"])
    with InProcessEngine(small_llama(tokenizer), chat, max_context=400) as engine:
        first, second, dialogue = dialogue_of(engine, monkeypatch)
        trace = dialogue.trace()
        dialogue.close()
    (start,) = trace.starts
    prompt = chat.render(
        [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "So.", "reasoning_content": "hm"},
            {"role": "user", "content": "v"},
        ]
    )
    assert list(trace.token_ids[:start]) == [*chat.open(OPENING), *first.token_ids]
    assert list(trace.token_ids[start:]) == [*prompt, *second.token_ids]
    sampled = [token for token, is_ in zip(trace.token_ids, trace.loss_mask, strict=True) if is_]
    assert sampled == [*first.token_ids, *second.token_ids]
    batch = flat_batch([Sample.from_trace(trace, advantage=1.0)])
    assert len(batch.score_ids) == len(sampled)
    assert batch.input_ids.shape[0] == 2


def test_kept_reasoning_continues_the_stream(tokenizer, monkeypatch):
    chat = Chat(tokenizer, rendering="native", dialects=["hermes"], keep_reasoning=True)
    with InProcessEngine(small_llama(tokenizer), chat, max_context=400) as engine:
        *_, dialogue = dialogue_of(engine, monkeypatch)
        assert dialogue.trace().starts == ()
        dialogue.close()


def test_a_demonstration_forks_as_well(tokenizer):
    family = BY_NAME["forgetful"]
    tokenizer = family.tokenizer()
    tokenizer.chat_template = family.template.replace(
        "<|im_start|>assistant\\n' }}{%- endif %}",
        "<|im_start|>assistant\\n<think>\\n' }}{%- endif %}",
    )
    chat = Chat(tokenizer, rendering="native", dialects=["hermes"])
    demo = DemoDialogue(chat, OPENING, [], [("One.", None), ("Two.", None)])
    demo.reply()
    demo.observe([Message("user", "v")])
    demo.reply()
    trace = demo.trace()
    text = chat.tokenizer.decode(trace.token_ids[trace.starts[0] :])
    assert text.count("One.") == text.count("Two.") == 1
    assert text.count("</think>") == 1  # only of the turn that the prompt has opened
