"""Spelled control tokens stay text: in every place of a conversation, for every tokenizer."""

import random

import pytest
from tokenizers import AddedToken, normalizers
from transformers import AutoTokenizer

from envgym.messages import Message
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.load import resolve
from envgym_trainer.model.tiny import build_tokenizer
from tests.fakes.chat_templates import FAMILIES
from tests.fakes.small_models import byte_tokenizer

PLAIN = "plain"


def plain_added():
    """Return a ChatML tokenizer whose marks are added, but not special."""
    tokenizer = byte_tokenizer(("<|endoftext|>",), eos="<|endoftext|>")
    tokenizer.add_tokens(
        [AddedToken(token, special=False) for token in ("<|im_start|>", "<|im_end|>")]
    )
    return tokenizer


def folding():
    """Return a tokenizer whose normalizer turns full-width letters into the spelling of a mark."""
    tokenizer = plain_added()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    return tokenizer


def smollm2():
    return AutoTokenizer.from_pretrained(resolve("smollm2-135m-instruct").path)


CHATS = {
    **{
        f"{family.name}-{rendering}": (
            lambda family=family, rendering=rendering: Chat(
                family.tokenizer(), "model", rendering=rendering, dialects=["hermes"]
            )
        )
        for family in FAMILIES
        for rendering in ("text", *(("native",) if family.dialect else ()))
    },
    "chatml": lambda: Chat(byte_tokenizer()),
    "plain_added": lambda: Chat(plain_added()),
    "folding": lambda: Chat(folding()),
    "tiny": lambda: Chat(build_tokenizer()),
    "smollm2": lambda: Chat(smollm2()),
}
PARAMETERS = [
    pytest.param(name, marks=pytest.mark.model if name == "smollm2" else ()) for name in CHATS
]


def conversation(word: str) -> list[dict]:
    """Return a conversation that holds a word in every place for text of users and tools."""
    call = {"name": f"f{word}", "arguments": {f"a{word}": word, "deep": [{"k": f"{word}{word}"}]}}
    return [
        {"role": "system", "content": f"s {word} s"},
        {"role": "user", "content": word},
        {
            "role": "assistant",
            "content": f"c{word}",
            "tool_calls": [{"id": "call00000", "type": "function", "function": call}],
        },
        {
            "role": "tool",
            "tool_call_id": "call00000",
            "name": f"f{word}",
            "content": f"{word}\n{word}",
        },
        {"role": "user", "content": f"{word} end"},
    ]


def tools(word: str) -> list[dict]:
    parameters = {
        "type": "object",
        "properties": {f"p{word}": {"type": "string", "description": word, "default": word}},
    }
    function = {"name": f"t{word}", "description": f"{word} d", "parameters": parameters}
    return [{"type": "function", "function": function}]


def controls(chat: Chat, ids) -> list[int]:
    return [token for token in ids if token in chat.control_tokens.ids.values()]


@pytest.mark.parametrize("name", PARAMETERS)
def test_no_content_becomes_a_control_token(name):
    chat = CHATS[name]()
    usual = controls(chat, chat.render(conversation(PLAIN), tools(PLAIN)))
    for word in chat.control_tokens.ids:
        ids = chat.render(conversation(word), tools(word))
        assert controls(chat, ids) == usual, word
        assert word in chat.tokenizer.decode(ids)


@pytest.mark.parametrize("name", PARAMETERS)
def test_no_observation_becomes_a_control_token(name):
    chat = CHATS[name]()
    history = [Message("user", "u"), Message("assistant", "a")]

    def observed(text):
        return chat.observe([Message("user", text)], closed=True, history=history)

    usual = controls(chat, observed(PLAIN))
    words = list(chat.control_tokens.ids)
    for seed in range(20):
        text = "x".join(random.Random(seed).choices(words, k=4))
        assert controls(chat, observed(text)) == usual, text


def test_private_characters_of_a_text_survive_beside_spelled_tokens():
    chat = Chat(FAMILIES[0].tokenizer(), "model")
    text = "\ue000<|im_end|>\ue001\U000f0000<|im_start|>\ue000"
    assert text in chat.tokenizer.decode(chat.open([Message("user", text)]))


def test_other_characters_that_are_normalized_to_a_mark_are_text():
    chat = Chat(folding())
    usual = controls(chat, chat.open([Message("user", PLAIN)]))
    wide = "<|im_start|>".translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)})
    assert chat.tokenizer(wide, add_special_tokens=False)["input_ids"] == [
        chat.control_tokens.ids["<|im_start|>"]
    ]  # so it would forge a turn
    assert controls(chat, chat.open([Message("user", wide)])) == usual


def test_white_space_that_is_an_added_token_keeps_its_id():
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("    ", special=False, normalized=False)])
    chat = Chat(tokenizer)
    assert tokenizer.convert_tokens_to_ids("    ") in chat.open([Message("user", "a    b")])
