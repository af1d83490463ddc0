"""`prompt.rendering: auto` is resolved by a probe of the model's template."""

import pytest

from envgym.errors import UsageError
from envgym.spec.environment import load_spec
from envgym.spec.prompt import PromptSpec
from envgym_trainer.model.rendering_choice import choose_rendering, open_chat, with_rendering
from tests.fakes.chat_templates import BY_NAME, FAMILIES, Family
from tests.fakes.small_models import byte_tokenizer, small_llama


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_template_that_takes_tools_is_native_and_another_is_text(family: Family):
    choice = choose_rendering(family.tokenizer(), PromptSpec(dialects=("bare",)))
    assert choice.rendering == ("native" if family.dialect else "text")
    assert choice.dialects == ((family.dialect, "bare") if family.dialect else ("bare",))
    assert choice.why


def test_a_tokenizer_without_a_template_is_text():
    assert choose_rendering(byte_tokenizer(), PromptSpec()).rendering == "text"


def test_an_explicit_rendering_keeps_its_dialects():
    prompt = PromptSpec(rendering="native", dialects=("hermes",))
    choice = choose_rendering(BY_NAME["hermes"].tokenizer(), prompt)
    assert (choice.rendering, choice.dialects) == ("native", ("hermes",))


@pytest.fixture(scope="module")
def qwen_like(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = BY_NAME["hermes"].tokenizer()
    small_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_an_environment_is_resolved_for_the_model_of_its_run(qwen_like):
    spec = with_rendering(load_spec("guess", ["prompt.dialects=[pythonic]"]), qwen_like)
    assert (spec.prompt.rendering, spec.prompt.dialects) == ("native", ("hermes", "pythonic"))
    assert with_rendering(load_spec("guess"), "tiny").prompt.rendering == "text"
    explicit = load_spec("guess", ["prompt.rendering=text"])
    assert with_rendering(explicit, qwen_like) == explicit


def test_an_environment_without_tools_is_text(qwen_like):
    spec = with_rendering(load_spec("classify"), qwen_like)
    assert (spec.prompt.rendering, spec.prompt.dialects) == (
        "text",
        load_spec("classify").prompt.dialects,
    )


def test_settings_of_the_prompt_reach_the_chat():
    settings = [
        "prompt.rendering=native",
        "prompt.dialects=[hermes]",
        "prompt.keep_reasoning=true",
        "prompt.chat_template_kwargs={enable_thinking: false}",
    ]
    chat = open_chat(load_spec("guess", settings), BY_NAME["hermes"].tokenizer())
    assert (chat.rendering, chat.dialects, chat.keep_reasoning) == ("native", ("hermes",), True)
    assert chat.adapters == ("enable_thinking=False", "keep_reasoning")
    assert chat.jinja.startswith("{%- set enable_thinking = enable_thinking if")


def test_native_on_a_model_without_tools_is_refused():
    with pytest.raises(UsageError, match=r"Set prompt\.rendering=text"):
        open_chat(load_spec("guess", ["prompt.rendering=native"]), BY_NAME["gemma"].tokenizer())
