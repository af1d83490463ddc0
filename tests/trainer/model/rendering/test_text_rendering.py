"""Text rendering: adapters of templates, and the exported template of a server."""

from datetime import datetime

import pytest

from envgym.dialects import dialect_names, usage_example
from envgym.messages import Message
from envgym.tools import Tool, tools_section
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.rendering.served_template import can_write_calls
from tests.fakes.chat_templates import BY_NAME, FAMILIES, Family
from tests.fakes.conversations import TOOLS, conversation
from tests.fakes.small_models import byte_tokenizer

CONVERSATIONS = 200
WRITABLE = [name for name in dialect_names() if can_write_calls(name)]


def served(chat: Chat, messages, tools) -> list[int]:
    """Render a request as a server does: with the exported template and no masks."""
    text = chat.tokenizer.apply_chat_template(
        messages,
        tools=tools or None,
        chat_template=chat.jinja,
        add_generation_prompt=True,
        tokenize=False,
    )
    return chat.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_template_gets_the_adapters_that_it_needs(family: Family):
    if family.dialect is None:
        assert Chat(family.tokenizer(), "model").adapters == family.adapters


@pytest.mark.parametrize("name", ["gemma", "no_system", "phi3", "cohere", "dated"])
def test_system_tools_and_results_are_in_the_ids(name):
    chat = Chat(BY_NAME[name].tokenizer(), "model")
    opening = [Message("system", "SYSTEM"), Message("user", "USER")]
    ids = chat.open(opening, TOOLS) + chat.answer("CALL")
    history = [*opening, Message("assistant", "CALL")]
    ids += chat.observe(
        [Message("tool", "RESULT 42"), Message("tool", "RESULT 43")], closed=True, history=history
    )
    text = chat.tokenizer.decode(ids)
    for part in ("SYSTEM", "USER", "find_contacts(", "CALL", "RESULT 42", "RESULT 43"):
        assert part in text


@pytest.mark.parametrize("dialect", WRITABLE)
@pytest.mark.parametrize("name", ["chatml", "gemma", "no_system", "phi3", "cohere", "dated"])
def test_a_client_with_tools_gets_the_ids_of_training(name, dialect):
    tokenizer = byte_tokenizer() if name == "chatml" else BY_NAME[name].tokenizer()
    chat = Chat(tokenizer, dialects=[dialect], clock=datetime(2026, 1, 5))
    usage = usage_example(dialect)
    for seed in range(CONVERSATIONS // 5):
        messages = conversation(seed, reasoning=False)
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        rest = messages[1:] if messages[0]["role"] == "system" else messages
        trained = system + tools_section([Tool.from_schema(tool) for tool in TOOLS], usage)
        assert chat.render(messages, TOOLS) == served(chat, messages, TOOLS)
        first = next(i for i, m in enumerate(rest) if m["role"] == "user") + 1
        opening = [Message("system", trained), *map(Message.from_dict, rest[:first])]
        assert chat.open(opening) == chat.render(
            messages[: len(messages) - len(rest) + first], TOOLS
        )


@pytest.mark.parametrize("name", ["chatml", "gemma", "no_system", "phi3", "cohere", "dated"])
def test_turn_by_turn_ids_are_those_of_the_whole_conversation(name):
    tokenizer = byte_tokenizer() if name == "chatml" else BY_NAME[name].tokenizer()
    chat = Chat(tokenizer, dialects=["hermes"], clock=datetime(2026, 1, 5))
    for seed in range(40):
        messages = [Message.from_dict(m) for m in conversation(seed) if "tool_calls" not in m]
        messages = [Message(m.role, m.content.strip()) for m in messages]
        answers = [i for i, m in enumerate(messages) if m.role == "assistant"]
        ids = chat.open(messages[: answers[0]] if answers else messages)
        for turn, index in enumerate(answers):
            end = answers[turn + 1] if turn + 1 < len(answers) else len(messages)
            ids += chat.answer(messages[index].content)
            ids += chat.observe(
                messages[index + 1 : end], closed=True, history=messages[: index + 1]
            )
        assert ids == chat.open(messages)


def test_the_date_of_a_template_is_the_start_of_the_clock():
    chat = Chat(BY_NAME["dated"].tokenizer(), clock=datetime(2026, 3, 2))
    assert "Today Date: 02 Mar 2026" in chat.tokenizer.decode(chat.open([Message("user", "u")]))
    assert chat.adapters == ("pinned_date",)
    assert "strftime_now(" not in chat.jinja
