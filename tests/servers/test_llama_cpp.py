"""Real llama.cpp: the exported chat template gives the text that was trained."""

import json
from pathlib import Path

import httpx
import pytest

from envgym_trainer.model.chat import Chat
from envgym_trainer.model.load import load_model
from tests.servers.environments import Unavailable, small_gguf

pytestmark = [pytest.mark.servers, pytest.mark.model]
SERVER = Path(__file__).with_name("llama_cpp_server.py")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "set_price",
            "description": "Change the price of an article",
            "parameters": {
                "type": "object",
                "properties": {
                    "article": {"type": "string", "description": "Name of the article"},
                    "price": {"type": "number", "description": "New price in euros"},
                },
                "required": ["article", "price"],
            },
        },
    }
]
CALL = {"name": "set_price", "arguments": {"article": 'café "crème"', "price": 2.5}}
CONVERSATION = [
    {"role": "system", "content": "You run a shop."},
    {"role": "user", "content": "The café crème costs 2.50 now."},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call_0", "type": "function", "function": CALL}],
    },
    {"role": "tool", "tool_call_id": "call_0", "name": "set_price", "content": "changed"},
]


@pytest.fixture(scope="module")
def gguf():
    try:
        return small_gguf()
    except Unavailable as error:
        pytest.skip(f"NOT TESTED: {error}")


@pytest.mark.parametrize("dialect", ["hermes", "pythonic"])
def test_the_exported_template_gives_the_trained_text(dialect, llama_cpp, gguf, serve, tmp_path):
    model, tokenizer = load_model("smollm2-135m-instruct", device="cpu")
    chat = Chat(tokenizer, model=model, dialects=(dialect,))
    template = tmp_path / "chat_template.jinja"
    template.write_text(chat.jinja)
    url = serve([llama_cpp, SERVER, gguf, "--template", template])
    for length in (2, 4):
        messages = CONVERSATION[:length]
        sent = [_as_sent(message) for message in messages]
        request = {"messages": sent, "tools": TOOLS, "add_generation_prompt": True}
        found = httpx.post(f"{url}/apply-template", json=request, timeout=60).json()
        ids = chat.render(messages, TOOLS)
        assert found["prompt"] == tokenizer.decode(ids, skip_special_tokens=False)


def _as_sent(message):
    """Return a message as a client sends it: arguments are JSON text."""

    calls = message.get("tool_calls")
    if not calls:
        return message
    function = CALL | {"arguments": json.dumps(CALL["arguments"], ensure_ascii=False)}
    return message | {"tool_calls": [calls[0] | {"function": function}]}
