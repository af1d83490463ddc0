"""Native rendering: ids of the model's own template, calls read back, and turns appended."""

import random

import pytest

from envgym.dialects import write_calls
from envgym.errors import UsageError
from envgym.messages import Message, ToolCall
from envgym_trainer.model.chat import Chat
from tests.fakes.chat_templates import BY_NAME, FAMILIES, Family
from tests.fakes.conversations import TOOLS, call, conversation

NATIVE = [family for family in FAMILIES if family.dialect]


def native(family: Family, **options) -> Chat:
    return Chat(family.tokenizer(), rendering="native", dialects=[str(family.dialect)], **options)


def plain(chat: Chat, messages, tools=TOOLS) -> list[int]:
    """Render as the tokenizer itself does."""
    return chat.tokenizer.apply_chat_template(
        messages, tools=tools, add_generation_prompt=True, return_dict=False
    )


@pytest.mark.parametrize("family", NATIVE, ids=lambda family: family.name)
def test_ids_are_those_of_the_tokenizers_own_template(family: Family):
    chat = native(family)
    for seed in range(200):
        messages = conversation(seed)
        assert chat.render(messages, TOOLS) == plain(chat, messages), seed


@pytest.mark.parametrize("family", NATIVE, ids=lambda family: family.name)
def test_calls_that_the_template_writes_are_read_back(family: Family):
    chat = native(family)
    user = [Message("user", "x")]
    for seed in range(200):
        made = call(random.Random(seed))
        ids = chat.answer("", made, history=user, tools=TOOLS)
        assert ids[-1] in chat.stop_ids
        assert chat.parse(chat.decode(ids), TOOLS).calls == (made,)


def test_turn_by_turn_ids_are_those_of_the_whole_conversation():
    chat = native(BY_NAME["hermes"])
    for seed in range(60):
        made = [call(random.Random(seed * 10 + turn)) for turn in range(3)]
        history = [Message("system", "s"), Message("user", f"u{seed}")]
        structured = [m.to_dict() for m in history]
        ids = chat.open(history, TOOLS)
        for turn, each in enumerate(made):
            sampled = chat.answer("", each, history=history, tools=TOOLS)
            history.append(Message("assistant", chat.decode(sampled)))
            result = Message("tool", f"result {turn}", name=each.name)
            ids += sampled + chat.observe([result], closed=True, history=history, tools=TOOLS)
            history.append(result)
            name = f"call{turn:05d}"
            structured += [
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"id": name, "type": "function", "function": each.to_dict()}],
                },
                {"role": "tool", "tool_call_id": name, "content": f"result {turn}"},
            ]
        assert ids == chat.render(structured, TOOLS) == plain(chat, structured)


def test_several_results_stand_together_as_the_template_writes_them():
    chat = native(BY_NAME["hermes"])
    calls = write_calls([ToolCall("find_contacts", {"query": name}) for name in "ab"], "hermes")
    history = [Message("user", "u"), Message("assistant", calls)]
    new = [Message("tool", "1"), Message("tool", "2")]
    text = chat.tokenizer.decode(chat.observe(new, closed=False, history=history, tools=TOOLS))
    assert text == (
        "<|im_end|>\n<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n"
        "</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


def test_calls_that_the_template_refuses_are_text_in_later_prompts():
    family = BY_NAME["hermes"]
    tokenizer = family.tokenizer()
    tokenizer.chat_template = family.template.replace(
        "{%- for tool_call in message.tool_calls or [] %}",
        "{%- if message.tool_calls and message.tool_calls | length > 1 %}"
        "{{- raise_exception('only one call at once') }}{%- endif %}"
        "{%- for tool_call in message.tool_calls or [] %}",
    )
    chat = Chat(tokenizer, rendering="native", dialects=["hermes"])
    calls = write_calls([ToolCall("find_contacts", {"query": name}) for name in "ab"], "hermes")
    history = [Message("user", "u"), Message("assistant", calls)]
    new = [Message("tool", "1"), Message("tool", "2")]
    text = chat.tokenizer.decode(chat.observe(new, closed=True, history=history, tools=TOOLS))
    assert text.startswith("\n<|im_start|>user\n<tool_response>\n1\n</tool_response>")


def test_a_reply_to_an_invalid_call_is_in_the_ids():
    chat = native(BY_NAME["hermes"])
    history = [Message("user", "u"), Message("assistant", "<tool_call>{</tool_call>")]
    ids = chat.observe([Message("tool", "error: bad")], closed=True, history=history, tools=TOOLS)
    assert "error: bad" in chat.tokenizer.decode(ids)


def test_reasoning_that_a_template_drops_is_an_error_or_is_kept():
    family = BY_NAME["forgetful"]
    history = [Message("user", "u"), Message("assistant", "<think>\nhm\n</think>\n\nSo.")]
    with pytest.raises(UsageError, match=r"rewrites .* once a user .*prompt.keep_reasoning=true"):
        native(family).observe([Message("user", "v")], closed=True, history=history)
    kept = native(family, keep_reasoning=True)
    text = kept.tokenizer.decode(kept.observe([Message("user", "v")], closed=True, history=history))
    assert text == "\n<|im_start|>user\nv<|im_end|>\n<|im_start|>assistant\n"
    assert kept.adapters == ("keep_reasoning",)


def test_the_exported_template_keeps_the_reasoning_that_training_kept():
    chat = native(BY_NAME["forgetful"], keep_reasoning=True)
    history = [Message("user", "u")]
    ids = chat.open(history, TOOLS)
    sampled = chat.control_tokens.encode("<think>\nhm\n</think>\n\nSo.<|im_end|>")
    history.append(Message("assistant", chat.decode(sampled)))
    ids += sampled + chat.observe([Message("user", "v")], closed=True, history=history, tools=TOOLS)
    messages = [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "So.", "reasoning_content": "hm"},
        {"role": "user", "content": "v"},
    ]
    chat.tokenizer.chat_template = chat.jinja
    assert ids == plain(chat, messages)


def test_a_template_whose_reasoning_cannot_be_kept_is_refused():
    family = BY_NAME["forgetful"]
    tokenizer = family.tokenizer()
    tokenizer.chat_template = family.template.replace(
        "loop.index0 > ns.last", "ns.last < loop.index0"
    )
    with pytest.raises(UsageError, match=r"prompt\.keep_reasoning=false"):
        Chat(tokenizer, rendering="native", dialects=["hermes"], keep_reasoning=True)


def test_a_template_without_tools_is_refused_with_the_way_out():
    with pytest.raises(UsageError, match=r"Set prompt\.rendering=text"):
        Chat(BY_NAME["phi3"].tokenizer(), rendering="native")


def test_a_dialect_that_does_not_read_the_templates_calls_is_refused():
    with pytest.raises(UsageError, match=r"no dialect of prompt.dialects reads .*pythonic"):
        Chat(BY_NAME["hermes"].tokenizer(), rendering="native", dialects=["pythonic"])


def test_marks_of_calls_survive_decoding_and_opened_reasoning_is_written():
    family = BY_NAME["hermes"]
    opening = family.template.replace(
        "assistant\\n' }}{%- endif %}", "assistant\\n<think>\\n' }}{%- endif %}"
    )
    assert opening != family.template
    tokenizer = family.tokenizer()
    tokenizer.chat_template = opening
    chat = Chat(tokenizer, rendering="native", dialects=["hermes"])
    written = 'hm</think>\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    text = chat.decode(chat.control_tokens.encode(f"{written}<|im_end|>"))
    assert text == f"<think>\n{written}"
    answer = chat.parse(text)
    assert (answer.reasoning, answer.calls) == ("hm", (ToolCall("f", {}),))
