"""Public surface of envgym_trainer: every name exists and is documented, and no other is public."""

import subprocess
import sys

import pytest

import envgym_trainer
from envgym.errors import UsageError
from envgym.spec.environment import load_spec
from envgym_trainer import RunFolder, TrainConfig, train
from tests.trainer.training.runs import FOREIGN, SMALL

PUBLIC = {
    "AdvantageInputs",
    "Batch",
    "Chat",
    "Engine",
    "EngineInputs",
    "Learner",
    "LossInputs",
    "RunFolder",
    "RunLogger",
    "Sample",
    "TokenLosses",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "TrainingPlan",
    "UpdateSettings",
    "advantage",
    "attach_lora",
    "load_model",
    "loss",
    "open_engine",
    "save_adapter",
    "train",
    "verify_adapter",
}


def test_the_public_names_are_exactly_these():
    assert set(envgym_trainer.__all__) == PUBLIC
    assert list(envgym_trainer.__all__) == sorted(envgym_trainer.__all__)
    assert set(dir(envgym_trainer)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_is_documented(name):
    value = getattr(envgym_trainer, name)
    text = value.__doc__ or ""
    assert text[:1].isupper(), f"{name}: {text!r}"
    assert not text.startswith(f"{name}("), f"{name} has only the docstring of its dataclass"
    assert value.__module__.startswith("envgym_trainer.")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        envgym_trainer.trian  # noqa: B018 - the access is the test


def test_importing_the_package_loads_neither_torch_nor_pydantic():
    code = (
        "import sys, envgym_trainer; dir(envgym_trainer); "
        "print({'torch', 'transformers', 'peft', 'pydantic', 'envgym'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.fixture
def env(tmp_path):
    path = tmp_path / "echo.yaml"
    path.write_text(FOREIGN)
    return path


def test_train_runs_an_environment_and_resumes_its_folder(env, tmp_path):
    settings = ["train.warm_start.episodes=0", "train.steps=1", "train.checks.preflight=off"]
    spec = load_spec(env, [*SMALL, *settings])
    result = train(spec, out=tmp_path / "runs", name="mine")
    assert result.folder.path == tmp_path / "runs" / "mine"
    assert list(result.outcomes) == ["base model", "trained"]
    assert (result.adapter / "adapter_model.safetensors").is_file()
    assert "steps: 1" in result.folder.config_file.read_text()
    longer = TrainConfig.of(spec.train).model_copy(update={"steps": 2})
    again = train(spec, longer, resume=result.folder.path)
    assert [m["step"] for m in again.folder.metrics() if m["phase"] == "grpo"] == [1, 2]
    assert again.folder == RunFolder.open(tmp_path / "runs" / "mine")


def test_train_refuses_to_resume_the_run_of_another_environment(env, tmp_path):
    folder = RunFolder.create(tmp_path, "other")
    folder.write_config("id: test/other-v0\n")
    with pytest.raises(UsageError, match="is a run of 'test/other-v0', not of 'test/echo-v0'"):
        train(load_spec(env, SMALL), resume=folder.path)


def test_train_refuses_settings_that_contradict_each_other_before_it_writes(env, tmp_path):
    config = TrainConfig.model_validate({"output": {"adapter": "best"}})
    with pytest.raises(UsageError, match=r"train\.output\.adapter is best"):
        train(env, config, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
