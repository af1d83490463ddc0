"""Preflight finds faults of the environment, the template and the limits before a run."""

import dataclasses
import re

import pytest
import torch

from envgym_trainer.config import merged
from envgym_trainer.inference.token_session import TurnRequest
from envgym_trainer.model.chat import Chat
from envgym_trainer.preflight import (
    conversation,
    engine,
    environment,
    run_preflight,
)
from tests.fakes.shop_env import TASKS, WORLD, YAML
from tests.fakes.shop_env import write as write_shop
from tests.fakes.small_models import byte_tokenizer
from tests.trainer.model.test_chat import FORGETFUL
from tests.trainer.preflight.contexts import opened

ALONE = re.sub(
    r"draw\.wording\(\[.*?\]\)",
    '"I1 to 120."',
    TASKS.replace(
        'draw.row("SELECT * FROM items"), draw.rng.randrange(100, 200)', '{"id": "I1"}, 120'
    ),
    count=1,
    flags=re.DOTALL,
)


@pytest.fixture(scope="module")
def guess():
    with opened("guess") as subject:
        yield subject


@pytest.fixture
def anew(guess):
    """The sound subject under other settings: `anew(lora={"dropout": 0.1})`."""

    def change(chat=None, groups=(), **settings):
        config = type(guess.config).model_validate(merged(guess.config.model_dump(), settings))
        return dataclasses.replace(
            guess, config=config, chat=chat or guess.chat, groups=list(groups)
        )

    return change


def test_a_sound_run_passes_every_check_and_no_random_state_moves(guess):
    before = torch.get_rng_state()
    results = run_preflight(dataclasses.replace(guess, groups=[]))
    assert [(result.id, result.detail) for result in results if not result.passed] == []
    assert [result.id for result in results] == [
        "adapter",
        "prompt",
        "template",
        "end_of_turn",
        "oracle",
        "noop",
        "splits",
        "context",
        "engine",
        "memory",
        "model",
        "rewards_differ",
    ]
    assert torch.equal(before, torch.get_rng_state())


def test_an_oracle_that_does_not_solve_its_tasks_is_found(tmp_path):
    wrong = TASKS.replace('"price": price}', '"price": price + 1}')
    with opened(write_shop(tmp_path, tasks=wrong)) as subject:
        result = environment.oracle(subject)
    assert not result.passed
    assert "8 of 16 tasks: train/reprice/0: reward 0" in result.detail
    assert "envgym check" in result.detail


def test_a_warm_start_without_an_oracle_is_found(tmp_path):
    with opened(write_shop(tmp_path, tasks=TASKS.replace("oracle=[", "extra_calls=["))) as subject:
        result = environment.oracle(subject)
    assert not result.passed
    assert "the tasks have no oracle (such as train/" in result.detail
    assert "train.warm_start.episodes=0" in result.detail


def test_a_reward_for_doing_nothing_is_found(tmp_path):
    (tmp_path / "rewards.py").write_text("def part(evidence):\n    return 1.0\n")
    env = write_shop(
        tmp_path, yaml=YAML.replace("{from: state_match}", "{from: 'rewards.py:part'}")
    )
    with opened(env) as subject:
        result = environment.noop(subject)
    assert not result.passed
    assert "doing nothing earns 1, the oracle 1" in result.detail
    assert "state_match" in result.detail


def test_held_out_tasks_that_are_trained_on_are_found(tmp_path):
    with opened(write_shop(tmp_path, tasks=ALONE)) as subject:
        result = environment.splits(subject)
    assert not result.passed
    assert "val/reprice/0 is train/reprice/" in result.detail
    assert "draw.rng" in result.detail


def test_a_held_out_prompt_with_another_truth_is_a_warning(tmp_path):
    wide = WORLD.replace(
        "rng.randrange(100)", "rng.randrange(10**9)"
    )  # `What does I3 cost?` never has the same answer
    with opened(
        write_shop(
            tmp_path,
            world=wide,
            tasks=TASKS.replace("randrange(100, 200)", "randrange(100, 10**9)"),
        )
    ) as subject:
        result = environment.splits(subject)
    assert (result.passed, result.warning) == (True, True)
    assert "3 of 12 held-out prompts are also trained on, with another solution" in result.detail


def test_a_template_that_rewrites_history_is_found(anew):
    tokenizer = byte_tokenizer(("<|head|>", "<|eot|>"), eos="<|eot|>", template=FORGETFUL)
    result = conversation.template(anew(chat=Chat(tokenizer)))
    assert (result.passed, result.warning) == (True, True)
    assert "rewrites earlier text" in result.detail
    assert "prompt.keep_reasoning=true" in result.detail


def test_an_observation_that_is_rendered_otherwise_once_it_is_history_is_found(
    anew, guess, monkeypatch
):
    observe = Chat.observe
    monkeypatch.setattr(
        Chat, "observe", lambda self, *args, **kwargs: [*observe(self, *args, **kwargs), 7]
    )
    found = conversation.changed_turn(guess.chat, guess.demos[0].messages, ())
    assert found == "the chat template renders turn 1 differently once it is history"


def test_an_end_of_the_generation_config_that_does_not_end_a_turn_is_found(guess, monkeypatch):
    monkeypatch.setattr(guess.model.generation_config, "eos_token_id", [2, 77])
    result = conversation.end_of_turn(guess)
    assert not result.passed
    assert "id 77" in result.detail
    assert "ends a turn in the model's config, but not here" in result.detail


def test_an_end_that_is_cut_off_before_training_is_found(guess, monkeypatch):
    take = TurnRequest.take

    def cut(self, token, logprob):
        reason = take(self, token, logprob)
        if reason == "stop":
            self.dialogue.mask[-1] = False
        return reason

    assert conversation.end_of_turn(guess).passed
    monkeypatch.setattr(TurnRequest, "take", cut)
    result = conversation.end_of_turn(guess)
    assert not result.passed
    assert "ends a turn, but is not trained" in result.detail


def test_a_demonstration_without_its_end_is_found(guess):
    trace = guess.demos[0].tokens
    mask = tuple(
        bit and token not in guess.chat.stop_ids
        for bit, token in zip(trace.loss_mask, trace.token_ids, strict=True)
    )
    cut = dataclasses.replace(guess.demos[0], tokens=dataclasses.replace(trace, loss_mask=mask))
    assert "but 0 stop ids in the batch" in conversation._untrained_turn(guess.chat, cut)
    assert conversation._untrained_turn(guess.chat, guess.demos[0]) == ""


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ("max_turn_tokens", "train.rollout.max_turn_tokens=7"),
        ("max_context_tokens", "train.rollout.max_context_tokens=1"),
    ],
)
def test_limits_that_the_oracle_itself_exceeds_are_found(anew, setting, remedy):
    result = conversation.context(
        anew(rollout={setting: {"max_turn_tokens": 3, "max_context_tokens": 64}[setting]})
    )
    assert not result.passed
    assert "16 of 16 tasks" in result.detail
    assert remedy in result.detail


def test_a_prompt_that_leaves_no_room_for_an_answer_is_found(anew):
    result = conversation.prompt(anew(rollout={"max_context_tokens": 64}))
    assert not result.passed
    assert "and an answer of 8 exceed 64" in result.detail
    assert "Set train.rollout.max_context_tokens=7" in result.detail


def test_a_managed_server_is_recommended_on_a_gpu_only():
    assert engine.recommendation("in_process", "cpu").detail == "in_process on cpu"
    assert not engine.recommendation("vllm", "cuda").warning
    found = engine.recommendation("in_process", "cuda")
    assert found.passed
    assert found.warning
    assert "Recommended: train.engine='{vllm: {start: true}}'" in found.detail
