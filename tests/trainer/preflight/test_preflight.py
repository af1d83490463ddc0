"""The preflight: a sound run passes; each deliberate fault fails its own check, with a fix."""

import dataclasses
import json
import tomllib
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from envgym.episode import Episode, Failure
from envgym.policies import TokenTrace
from envgym_trainer.config import merged
from envgym_trainer.inference.dialogue import TurnRequest
from envgym_trainer.model.chat import Chat
from envgym_trainer.preflight import (
    PreflightFailed,
    conversation,
    environment,
    learning,
    memory,
    open_preflight,
    run_preflight,
)
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.launch import resolve, start
from tests.fakes.shop_env import TASKS, WORLD, YAML
from tests.fakes.shop_env import write as write_shop
from tests.fakes.small_models import byte_tokenizer
from tests.trainer.model.test_chat import FORGETFUL

TINY = [
    "train.model=tiny",
    "train.model.device=cpu",
    "train.warm_start.episodes=4",
    "train.rollout.max_concurrent_episodes=16",
    "train.rollout.group_size=2",
]
ALONE = TASKS.replace(
    'draw.row("SELECT * FROM items"), draw.rng.randrange(100, 200)', '{"id": "I1"}, 120'
).replace(
    """draw.wording([f"{item['id']} to {price}.", f"{item['id']} costs {price}.", """
    """f"Price of {item['id']}: {price}."])""",
    '"I1 to 120."',
)


@contextmanager
def opened(env, *settings):
    spec, config, _ = resolve(str(env), [*TINY, *settings])
    with open_preflight(spec, config, is_full=False, notify=lambda text: None) as subject:
        yield subject


@pytest.fixture(scope="module")
def guess():
    with opened("guess") as subject:
        yield subject


@pytest.fixture
def anew(guess):
    """Return a function that changes the sound run's settings: `anew(lora={"dropout": 0.1})`."""

    def change(chat=None, groups=(), **settings):
        config = type(guess.config).model_validate(merged(guess.config.model_dump(), settings))
        return dataclasses.replace(
            guess, config=config, chat=chat or guess.chat, groups=list(groups)
        )

    return change


def episode(reward, *, failure=None, success=None):
    trace = TokenTrace((1, 2), (False, True), (0.0, -0.5))
    return Episode(
        "e",
        "t",
        "train",
        "",
        "",
        0,
        (),
        trace,
        reward,
        success=success,
        failure=failure,
        dialects={"none": 1},
    )


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
    # `What does I3 cost?` never has the same answer
    wide = WORLD.replace("rng.randrange(100)", "rng.randrange(10**9)")
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
    assert not result.passed
    assert "rewrites earlier text" in result.detail
    assert "train.model" in result.detail


def test_an_observation_that_is_rendered_otherwise_once_it_is_history_is_found(
    anew, guess, monkeypatch
):
    monkeypatch.setattr(
        Chat, "observe", lambda self, *args, **kwargs: [*self._style.observe(*args, **kwargs), 7]
    )
    found = conversation.rewritten_turn(guess.chat, guess.demos[0].messages, ())
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


@pytest.mark.parametrize(
    ("free", "passed", "warning"),
    [(2**20, False, False), (2**30, True, True), (2**40, True, False)],
)
def test_a_machine_too_small_is_found_and_one_that_may_be_too_small_is_a_warning(
    anew, monkeypatch, free, passed, warning
):
    monkeypatch.setattr(memory, "available_bytes", lambda model: free)
    # 55 KB of activations each
    result = memory.memory(anew(optimizer={"micro_batch_tokens": 10**6}))
    assert (result.passed, result.warning) == (passed, warning)
    assert ("train.optimizer.micro_batch_tokens" in result.detail) == (not passed or warning)


def test_the_estimate_of_memory_is_added_up_by_hand():
    sizes = memory.Sizes(
        layers=2,
        hidden=8,
        intermediate=16,
        vocabulary=100,
        kv_bytes_a_token=64,
        dtype_bytes=4,
        adapter_numbers=10,
        copied_bytes=40,
    )
    found = memory.estimate(sizes, train_tokens=5, sampled_tokens=3)
    assert found["activations"] == pytest.approx(
        1.25 * 5 * (2 * (5 * 8 + 2 * 16) * 4 + 64 + 4 * (12 * 8 + 4 * 16))
    )
    assert (
        found["adapter, gradient, Adam"],
        found["keys and values"],
        found["sampler's weights"],
    ) == (160, 192, 40)
    assert memory.at_once(found) == 160 + found["activations"] + found["logits"]
    assert memory.at_once(found, one_step_ahead=True) == sum(found.values())
    # the engine sleeps while the learner works
    assert memory.at_once(found | {"keys and values": 10**9}) == 160 + 10**9 + 40


def test_a_containers_limit_counts_and_its_file_pages_are_free(tmp_path):
    for name, text in {
        "memory.max": "1000",
        "memory.current": "700",
        "memory.stat": "anon 600\nfile 100\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert memory._free_in_group(tmp_path) == 400
    assert memory._free_in_group(tmp_path / "none") == float("inf")


def test_a_model_whose_rewards_are_all_alike_is_refused_unless_a_warm_start_comes_first(anew):
    groups = [[episode(0.0), episode(0.0)]] * learning.GROUPS
    alone = learning.rewards_differ(anew(warm_start={"episodes": 0}, groups=groups))
    assert not alone.passed
    assert "all 16 episodes of 8 groups have the reward 0" in alone.detail
    for remedy in ("train.warm_start.episodes=64", "train.tasks.levels", "curriculum"):
        assert remedy in alone.detail
    assert learning.rewards_differ(anew(groups=groups)).passed


def test_one_group_that_differs_is_enough_and_differences_between_groups_are_not(anew):
    assert learning.rewards_differ(
        anew(warm_start={"episodes": 0}, groups=[[episode(0.0), episode(1.0)]])
    ).passed
    between = [[episode(float(n % 2))] * 2 for n in range(learning.GROUPS)]
    assert not learning.rewards_differ(anew(warm_start={"episodes": 0}, groups=between)).passed


def test_a_model_that_solves_everything_is_told_to_go_where_it_is_harder(anew):
    groups = [[episode(1.0, success=True)] * 2] * learning.GROUPS
    result = learning.rewards_differ(anew(warm_start={"episodes": 0}, groups=groups))
    assert not result.passed
    assert "were solved, so there is no gradient" in result.detail


def test_a_model_that_makes_no_call_is_a_warning_and_one_whose_episodes_break_is_refused(
    anew, monkeypatch
):
    subject = anew(warm_start={"episodes": 0})
    monkeypatch.setattr(type(subject), "play_groups", lambda self, count, size: [[episode(0.0)]])
    result = learning.model(subject)
    assert (result.passed, result.warning) == (True, True)
    assert "0 of 1 turns were parsed as a tool call" in result.detail
    assert "train.warm_start.episodes" in result.detail
    void = episode(None, failure=Failure("policy_failed", "policy", "no memory"))
    monkeypatch.setattr(type(subject), "play_groups", lambda self, count, size: [[void]])
    assert not learning.model(subject).passed


def test_dropout_is_said_aloud(anew):
    assert not learning.adapter(anew()).warning
    result = learning.adapter(anew(lora={"dropout": 0.1}))
    assert (result.passed, result.warning) == (True, True)
    assert "Set train.lora.dropout=0" in result.detail


RUN = [
    *TINY,
    "train.steps=1",
    "train.rollout.groups_per_step=1",
    "train.warm_start.episodes_per_step=4",
    "train.evaluation.tasks=2",
]


def test_a_run_that_cannot_learn_is_refused_before_it_starts_and_leaves_nothing(tmp_path):
    with pytest.raises(
        PreflightFailed,
        match=r"(?s)this run cannot learn:.*rewards_differ: all 16 episodes"
        r".*train\.checks\.preflight=off",
    ):
        start("guess", [*RUN, "train.warm_start.episodes=0"], out=tmp_path, name=None, resume=None)
    assert list(tmp_path.iterdir()) == []
    settings = [
        *RUN,
        "train.warm_start.episodes=0",
        "train.checks.preflight=off",
        "train.evaluation.base_tasks=0",
    ]
    assert start("guess", settings, out=tmp_path, name=None, resume=None) == 0
    assert not (tmp_path / "guess" / "preflight.json").exists()


def test_a_sound_run_says_so_in_one_line_and_keeps_the_results(tmp_path, capsys):
    assert (
        start(
            "guess",
            [*RUN, "train.lora.dropout=0.1", "train.evaluation.base_tasks=0"],
            out=tmp_path,
            name=None,
            resume=None,
        )
        == 0
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "preflight: 11 checks passed in" in said
    assert "warning: adapter:" in said
    kept = json.loads((RunFolder.open(tmp_path / "guess").path / "preflight.json").read_text())
    assert len(kept) == 11
    assert all(result["passed"] for result in kept)


@pytest.fixture
def command(monkeypatch):
    """Run `envgym ...` with the commands that pyproject.toml declares, also if not installed."""
    from importlib import metadata

    from envgym.commands import main

    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    declared = project["entry-points"]
    points = {
        group: [EntryPoint(name, value, group) for name, value in names.items()]
        for group, names in declared.items()
    }
    monkeypatch.setattr(metadata, "entry_points", lambda *, group: points.get(group, []))
    return lambda *words: main(list(words))


def test_preflight_prints_a_table_and_exits_like_envgym_check(command, capsys):
    assert command("preflight", "guess", *TINY, "--fast", "--prompt") == 0
    said = capsys.readouterr().out
    assert "11 of 11 checks passed" in said
    assert "<|im_start|>assistant" in said
    assert (
        command("preflight", "guess", *TINY, "train.rollout.max_turn_tokens=3", "--fast", "--json")
        == 1
    )
    told = json.loads(capsys.readouterr().out)
    assert [check["id"] for check in told["checks"] if not check["passed"]] == ["context"]
    assert command("preflight", "guess", "train.lora.rank=5") == 2


def test_the_help_of_preflight_shows_a_real_example(command, capsys):
    with pytest.raises(SystemExit):
        command("preflight", "--help")
    assert "envgym preflight envs/crm.yaml" in capsys.readouterr().out
