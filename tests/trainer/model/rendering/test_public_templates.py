"""Chat templates of public families, from an installed `trl`: ids, calls and adapters."""

import importlib.util
import random
import re
from pathlib import Path

import pytest

from envgym.messages import Message
from envgym.spec.prompt import PromptSpec
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.rendering_choice import choose_rendering
from tests.fakes.conversations import TOOLS, call, conversation
from tests.fakes.small_models import byte_tokenizer

MARKS = re.compile(
    r"<\|[^|>{}\s]+\|>|<｜[^>]+?｜>|</?s>|\[/?[A-Z_]+\]|</?(?:tool_call|tool_response|think)>|"
    r"<(?:start|end)_of_turn>|<\|(?:tool|turn|channel|think)\w*>|<(?:tool|turn|channel)\w*\|>"
)
NATIVE = {
    "gemma4_v2": "gemma4",
    "lfm2_v2": "lfm2",
    "llama3_1": "llama_json",
    "llama3_2": "llama_json",
    "nemotron_3_nano": "qwen_xml",
    "qwen2_5": "hermes",
    "qwen3": "hermes",
    "qwen3_5_think": "qwen_xml",
    "qwen3_6": "qwen_xml",
    "qwen3_instruct_2507": "hermes",
}
TEXT = {
    "cohere": ("results_as_user_turns", "merged_turns"),
    "cohere2": ("results_as_user_turns", "merged_turns"),
    "gemma": ("system_in_user_turn", "results_as_user_turns", "merged_turns"),
    "gemma3": ("results_as_user_turns", "merged_turns"),
    "llama3": (),
    "phi3": ("results_as_user_turns",),
    "phi3_5": ("results_as_user_turns",),
}
ENDS = ("<|im_end|>", "<|eot_id|>", "<|END_OF_TURN_TOKEN|>", "<|end|>", "<end_of_turn>", "<turn|>")


def tokenizer_of(name: str):
    spec = importlib.util.find_spec("trl")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("trl, whose templates are rendered, is not installed")
    folder = Path(next(iter(spec.submodule_search_locations)))
    path = folder / "chat_templates" / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"this version of trl has no template {name}")
    template = path.read_text(encoding="utf-8")
    marks = list(dict.fromkeys(MARKS.findall(template)))
    end = next(mark for mark in ENDS if mark in marks)
    tokenizer = byte_tokenizer(("<bos-token>", *marks), eos=end, template=template)
    tokenizer.bos_token = "<bos-token>"
    return tokenizer


@pytest.mark.parametrize("name", NATIVE)
def test_native_ids_are_those_of_the_template_and_its_calls_are_read(name):
    tokenizer = tokenizer_of(name)
    choice = choose_rendering(tokenizer, PromptSpec())
    assert (choice.rendering, choice.dialects[0]) == ("native", NATIVE[name])
    chat = Chat(tokenizer, rendering="native", dialects=choice.dialects)
    parallel = not name.startswith("llama")  # these refuse several calls in one turn
    for seed in range(200):
        messages = conversation(seed, parallel=parallel)
        plain = tokenizer.apply_chat_template(
            messages, tools=TOOLS, add_generation_prompt=True, return_dict=False
        )
        assert chat.render(messages, TOOLS) == plain
    for seed in range(60):
        made = call(random.Random(seed))
        ids = chat.answer("", made, history=[Message("user", "x")], tools=TOOLS)
        assert chat.parse(chat.decode(ids), TOOLS).calls == (made,)


@pytest.mark.parametrize("name", TEXT)
def test_templates_without_tools_get_their_adapters(name):
    tokenizer = tokenizer_of(name)
    assert choose_rendering(tokenizer, PromptSpec()).rendering == "text"
    chat = Chat(tokenizer, "model")
    assert chat.adapters == TEXT[name]
    text = chat.tokenizer.decode(chat.render(conversation(3, reasoning=False), TOOLS))
    assert "find_contacts(query: str" in text
