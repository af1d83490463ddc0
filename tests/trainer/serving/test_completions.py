"""Completions by text and by token ids, and the trainer's client of vLLM over this server."""

import openai
import pytest

from envgym.messages import Message
from envgym_trainer.inference.policies.local import base_of
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.load import load_model
from tests.fakes.taught_model import LESSONS, TOOLS, with_objects


@pytest.fixture(scope="module")
def chat(lamps):
    model, tokenizer = load_model(base_of(lamps), device="cpu")
    return Chat(tokenizer, model=model, dialects=["hermes"])


def prompt_of(chat, lesson: str) -> list[int]:
    return chat.render(with_objects(LESSONS[lesson][0]), TOOLS)


def test_ids_go_in_and_come_out(client, chat):
    ids = prompt_of(chat, "count")
    extra = {"return_token_ids": True}
    answer = client.completions.create(
        model="lamps", prompt=ids, max_tokens=64, logprobs=0, extra_body=extra
    )
    (choice,) = answer.choices
    assert choice.token_ids == chat.answer(LESSONS["count"][1])
    assert choice.prompt_token_ids == ids
    assert choice.text == LESSONS["count"][1]
    assert choice.finish_reason == "stop"
    assert len(choice.logprobs.token_logprobs) == len(choice.token_ids)
    assert all(-0.1 < logprob <= 0 for logprob in choice.logprobs.token_logprobs)
    assert answer.usage.prompt_tokens == len(ids)


def test_several_prompts_have_several_answers(client, chat):
    prompts = [prompt_of(chat, "count"), prompt_of(chat, "done")]
    choices = client.completions.create(model="lamps", prompt=prompts, max_tokens=64, n=2).choices
    assert [choice.index for choice in choices] == [0, 1, 2, 3]
    texts = [LESSONS["count"][1]] * 2 + [LESSONS["done"][1]] * 2
    assert [choice.text for choice in choices] == texts


def test_a_text_is_a_raw_prompt_with_special_tokens(client, chat):
    text = chat.tokenizer.decode(prompt_of(chat, "count"))
    answer = client.completions.create(model="lamps", prompt=text, max_tokens=64, echo=True)
    assert answer.choices[0].text == text + LESSONS["count"][1]


def test_a_stream_of_ids_adds_up(client, chat):
    stream = client.completions.create(
        model="lamps",
        prompt=prompt_of(chat, "count"),
        max_tokens=64,
        stream=True,
        extra_body={"return_token_ids": True},
    )
    chunks = [chunk.choices[0] for chunk in stream]
    ids = [token for chunk in chunks for token in getattr(chunk, "token_ids", None) or ()]
    assert ids == chat.answer(LESSONS["count"][1])
    assert "".join(chunk.text for chunk in chunks) == LESSONS["count"][1]
    assert chunks[-1].finish_reason == "stop"


def test_the_chosen_stop_ids_replace_those_of_the_template(client, chat):
    ids = chat.answer(LESSONS["count"][1])
    extra = {"return_token_ids": True, "ignore_eos": True, "stop_token_ids": [ids[3]]}
    answer = client.completions.create(
        model="lamps", prompt=prompt_of(chat, "count"), max_tokens=64, extra_body=extra
    )
    assert answer.choices[0].token_ids == ids[:4]


@pytest.mark.parametrize(
    "prompt", [[], "", [[]], [-1], [10**9], ["a", 1], [1.5], {"a": 1}, True, [True], [["a"]]]
)
def test_a_prompt_that_is_no_text_and_no_ids_is_refused(prompt, client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="lamps", prompt=prompt, max_tokens=1)
    assert caught.value.param.startswith("prompt")


def test_a_prompt_longer_than_the_context_is_refused(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="lamps", prompt=[5] * 1024, max_tokens=1)
    assert caught.value.code == "context_length_exceeded"


def test_the_dialogue_of_the_gym_gets_the_trained_answers(url):
    from envgym.policies.openai import OpenAIPolicy

    policy = OpenAIPolicy(f"{url}/v1")
    opening = [Message.from_dict(message) for message in LESSONS["one"][0]]
    dialogue = policy.open(opening, TOOLS, seed=0)
    assert "look_up" in dialogue.reply().text
    dialogue.observe([Message("tool", "42", name="look_up")])
    assert dialogue.reply().text == LESSONS["done"][1]
    policy.close()
