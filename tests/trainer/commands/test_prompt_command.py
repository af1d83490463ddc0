"""`envgym prompt` shows the prompt, its ids and the differences from the model's template."""

import json

from envgym.commands import main
from tests.fakes.chat_templates import BY_NAME
from tests.fakes.small_models import small_llama


def shown(capsys, *words) -> dict:
    assert main(["prompt", "guess", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_model_without_a_template_gets_its_tools_as_text(capsys):
    found = shown(capsys, "--model", "tiny")
    assert (found["rendering"], found["adapters"]) == ("text", [])
    assert "Tools:\nguess(number: int)" in found["text"]
    assert found["tokens"] == len(found["ids"])
    assert found["difference"] == "the tokenizer has no chat template"


def test_native_and_text_of_a_model_with_tools(capsys, tmp_path):
    tokenizer = BY_NAME["hermes"].tokenizer()
    small_llama(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    native = shown(capsys, "--model", str(tmp_path))
    assert (native["rendering"], native["difference"]) == ("native", "")
    assert native["why"] == "the chat template renders tools, and hermes reads its calls"
    assert '"name": "guess"' in native["text"]
    text = shown(capsys, "--model", str(tmp_path), "prompt.rendering=text")
    assert text["why"] == "set by prompt.rendering"
    assert "Tools:\nguess(number: int)" in text["text"]


def test_the_text_output_names_the_adapters(capsys, tmp_path):
    tokenizer = BY_NAME["gemma"].tokenizer()
    small_llama(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert main(["prompt", "guess", "--model", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "adapters: results_as_user_turns, merged_turns" in printed
    assert "rendering: text (the model's chat template does not render tools" in printed
