"""Whole small runs: the tiny model on the guessing game, its files, resume and adapter."""

import json

import pytest
import torch
import yaml

from envgym.episode import Episode
from envgym.errors import UsageError
from envgym.spec.environment import load_spec
from envgym_trainer.algorithms.credit import build_samples
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.algorithm import AdvantageConfig, AlgorithmConfig
from envgym_trainer.preflight import PreflightFailed
from envgym_trainer.training.checkpoint import Progress
from envgym_trainer.training.launch import resolve, start
from tests.fakes.shop_env import FAILS_IN_BOXES
from tests.fakes.shop_env import write as write_shop
from tests.trainer.training.runs import FOREIGN, SMALL, adapter_of, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "guess")


def test_a_run_evaluates_before_between_and_after(finished):
    outcomes, _ = finished
    assert list(outcomes) == ["base model", "warm start", "trained"]
    assert all(outcome.total.n == 4 for outcome in outcomes.values())


def test_a_run_folder_holds_everything(finished):
    _, folder = finished
    names = {path.name.split(".")[0] for path in folder.path.iterdir()}
    assert {"config", "run", "metrics", "episodes", "events", "checkpoints", "adapter"} <= names
    config = yaml.safe_load(folder.config_file.read_text())
    assert (config["id"], config["train"]["model"]["name"], config["train"]["steps"]) == (
        "envgym/guess-v0",
        "tiny",
        2,
    )
    facts = folder.facts()
    assert facts["seeds"] == {"train": 0}
    assert {"torch", "transformers", "peft", "gymnasium"} <= set(facts["versions"])


def test_warm_start_and_grpo_stand_on_one_axis(finished):
    _, folder = finished
    lines = folder.metrics()
    assert [(m["step"], m["phase"]) for m in lines if m["phase"] != "eval"] == [
        (1, "warmup"),
        (2, "warmup"),
        (3, "grpo"),
        (4, "grpo"),
    ]
    last = lines[-2]
    assert {
        "reward",
        "frac_reward_zero_std",
        "success",
        "episode/turns",
        "time/generate",
        "time/env",
        "time/train",
    } <= set(last)
    assert {m["step"] for m in lines if "eval/success" in m} == {0, 2, 4}
    assert [m["step"] for m in lines if "val/success" in m] == [3]


def test_episodes_are_kept_with_their_tokens(finished):
    _, folder = finished
    episodes = [e for step, phase, e in folder.episodes() if phase == "grpo"]
    assert len(episodes) == 2 * 2 * 4
    for episode in episodes:
        trace = episode.tokens
        assert len(trace.token_ids) == len(trace.loss_mask) == len(trace.logprobs)
        assert all(
            (logprob == 0.0) or sampled
            for logprob, sampled in zip(trace.logprobs, trace.loss_mask, strict=True)
        )
        assert any(trace.loss_mask)


def test_a_group_shares_its_task_and_its_start(finished):
    _, folder = finished
    episodes = [e for step, phase, e in folder.episodes() if phase == "grpo"]
    for start_at in range(0, len(episodes), 4):
        group = episodes[start_at : start_at + 4]
        assert len({(e.task_id, e.start_hash) for e in group}) == 1
        assert len({e.seed for e in group}) == 4


def test_tensorboard_reads_the_curves_and_the_transcripts(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, folder = finished
    events = EventAccumulator(str(folder.path)).Reload()
    assert {"reward", "success", "loss", "eval/success", "entropy"} <= set(events.Tags()["scalars"])
    assert {"transcripts/best/text_summary", "config/text_summary"} <= set(events.Tags()["tensors"])


@pytest.mark.parametrize(("prefix", "step"), [("", 1), ("", 3), ("eval/", 4), ("val/", 3)])
def test_each_step_and_evaluation_tells_what_the_sandbox_did_in_it(finished, prefix, step):
    (line,) = [
        m
        for m in finished[1].metrics()
        if m["step"] == step and f"{prefix}sandbox/open_ms/p50" in m
    ]
    for operation in ("open", "reset", "diff", "close"):
        name = f"{prefix}sandbox/{operation}_ms"
        assert 0 < line[f"{name}/p50"] <= line[f"{name}/p99"]


def test_a_run_in_boxes_counts_what_each_step_took_from_the_pool_and_how_it_failed(tmp_path):
    env = write_shop(tmp_path, world=FAILS_IN_BOXES.replace("EVERY", "3"))
    settings = [
        "sandbox.backend=local",
        "train.warm_start.episodes=8",
        "train.evaluation.base_tasks=0",
        "train.steps=0",
        "episode.max_void_fraction=1.0",
    ]
    # the preflight would refuse a world as broken as this one
    settings.append("train.checks.preflight=off")
    _, folder = run(tmp_path / "r", *settings, env=env)
    first, second = [m for m in folder.metrics() if m["phase"] == "warmup"]
    for line in (first, second):
        assert line["sandbox/pool/hits"] + line["sandbox/pool/waits"] == 4 + line["episode/retried"]
        assert line.get("sandbox/failures/seed_crashed") == line.get("failures/seed_crashed")
        assert line["sandbox/bytes/sent"] > 0


def test_plain_peft_finds_the_trainers_own_logits(finished):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from envgym_trainer.model.load import resolve as resolve_model

    _, folder = finished
    base = AutoModelForCausalLM.from_pretrained(resolve_model("tiny").path)
    served = PeftModel.from_pretrained(base, folder.adapter).eval()
    state = torch.load(folder.latest_checkpoint()[1] / "learner.pt", weights_only=True)["adapter"]
    mine = {name: value for name, value in served.named_parameters() if "lora_" in name}
    assert mine.keys() == state.keys()
    assert all(torch.equal(mine[name], state[name]) for name in mine)
    card = (folder.adapter / "README.md").read_text()
    assert "| base model | warm start | trained |" in card
    assert "| base weights | built |" in card
    config = json.loads((folder.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(resolve_model("tiny").path)


def test_the_same_seed_gives_the_same_adapter_and_another_another(finished, tmp_path):
    first = adapter_of(finished[1])
    again = adapter_of(run(tmp_path / "again")[1])
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = adapter_of(run(tmp_path / "other", "train.seed=1")[1])
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(finished, tmp_path):
    folder = tmp_path / "halves"
    run(folder, "train.steps=1")
    config = folder / "config.yaml"
    assert config.exists()
    (_, halves) = run(folder, resume=True)
    whole = adapter_of(finished[1])
    assert all(torch.equal(value, whole[name]) for name, value in adapter_of(halves).items())
    assert [m["step"] for m in halves.metrics() if m["phase"] == "grpo"] == [3, 4]


def test_a_foreign_gymnasium_environment_trains(tmp_path):
    path = tmp_path / "echo.yaml"
    path.write_text(FOREIGN)
    with pytest.raises(
        PreflightFailed, match="a stronger model"
    ):  # the tiny model never earns a reward here
        run(tmp_path / "refused", "train.warm_start.episodes=0", env=path)
    outcomes, folder = run(
        tmp_path / "echo", "train.warm_start.episodes=0", "train.checks.preflight=off", env=path
    )
    assert outcomes["trained"].total.n == 4
    assert (folder.adapter / "adapter_model.safetensors").exists()


def test_resuming_what_is_no_run_or_another_environments_is_told(finished, tmp_path):
    with pytest.raises(UsageError, match="is not a run folder"):
        start("guess", SMALL, out=tmp_path, name=None, resume=tmp_path)
    path = tmp_path / "echo.yaml"
    path.write_text(FOREIGN)
    with pytest.raises(UsageError, match="is a run of 'envgym/guess-v0'"):
        start(str(path), SMALL, out=tmp_path, name=None, resume=finished[1].path)


def test_void_members_are_left_out_of_their_group():
    from envgym.episode import Failure
    from envgym.policies import TokenTrace

    def episode(reward, failure=None):
        trace = TokenTrace((1, 2), (False, True), (0.0, -0.5))
        return Episode("e", "t", "train", "", "", 0, (), trace, reward, failure=failure)

    void = episode(None, Failure("sandbox_lost", "call", ""))
    plain = AlgorithmConfig(advantage=AdvantageConfig(std="none"))
    scaled = AlgorithmConfig()
    samples = build_samples([[episode(1.0), episode(0.0), void]], plain)
    assert [sample.advantage for sample in samples] == [0.5, -0.5]
    for algorithm in (plain, scaled):  # a single valid member has nothing to be compared with
        assert [
            sample.advantage for sample in build_samples([[episode(1.0), void, void]], algorithm)
        ] == [0.0]
        assert build_samples([[void, void, void]], algorithm) == []


def test_the_profile_of_the_device_is_taken_and_the_command_line_goes_over_it():
    spec = load_spec("crm", profile="cpu")
    assert TrainConfig.of(spec.train).tasks.levels == ("L0", "L1")
    _, config, profile = resolve("crm", ["train.model.device=cpu", "train.steps=3"])
    assert (profile, config.steps) == ("cpu", 3)


def test_progress_survives_its_json():
    assert Progress(**json.loads(json.dumps({"step": 3, "evaluations": {}}))) == Progress(3)
