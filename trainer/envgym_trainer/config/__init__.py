"""The `train:` block of an environment's YAML: all settings of the trainer.

Importable without torch, so that `envgym schema` and the check of a YAML are cheap. Settings in
`profiles.cpu` and `profiles.gpu` override the others on such a device; settings on the command line
override both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator

from envgym.block import Block, ShortForm
from envgym.errors import UsageError
from envgym.spec.late_values import with_values
from envgym_trainer.config.algorithm import AlgorithmConfig
from envgym_trainer.config.algorithm import with_absolute_paths as algorithm_paths
from envgym_trainer.config.controllers import ControllersConfig
from envgym_trainer.config.curriculum import TasksConfig
from envgym_trainer.config.engine import EngineConfig
from envgym_trainer.config.evaluation import ChecksConfig, EvaluationConfig, OutputConfig
from envgym_trainer.config.model import LoraConfig, ModelConfig
from envgym_trainer.config.old_keys import outdated
from envgym_trainer.config.optimizer import OptimizerConfig, WarmStartConfig
from envgym_trainer.config.plan import AnyPlanConfig, PlanConfig
from envgym_trainer.config.reward_weights import RewardWeightsConfig
from envgym_trainer.config.rollout import RolloutConfig
from envgym_trainer.config.server_limits import refusals

__all__ = ["TrainConfig"]


class TrainConfig(Block):
    """All settings of the trainer: the `train:` block of an environment's YAML."""

    short_forms: ClassVar[Mapping[str, ShortForm]] = {
        "model": ShortForm("name", keeps_rest=True),
        "algorithm": ShortForm("preset", keeps_rest=True),
        "engine": ShortForm("name"),
        "plan": ShortForm("name"),
    }

    model: ModelConfig = ModelConfig()
    """Base model. `model: NAME` is short for `model.name`."""
    lora: LoraConfig = LoraConfig()
    """Adapter."""
    seed: int = Field(default=0, ge=0)
    """Seed of the adapter's initial weights, of the order of tasks and of all sampling. At least
    0."""
    steps: int = Field(default=50, ge=0)
    """Number of GRPO steps. At least 0."""
    tasks: TasksConfig = TasksConfig()
    """Choice of the training tasks."""
    rollout: RolloutConfig = RolloutConfig()
    """Collection of episodes."""
    engine: EngineConfig = EngineConfig()
    """Inference engine: in_process, or a block `vllm` or `openai`. `engine: NAME` is short for
    `engine.name`."""
    warm_start: WarmStartConfig = WarmStartConfig()
    """Supervised steps before GRPO."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Updates of the adapter."""
    algorithm: AlgorithmConfig = AlgorithmConfig()
    """Loss and advantages. `algorithm: NAME` is short for `algorithm.preset`."""
    controllers: ControllersConfig = ControllersConfig()
    """Settings that follow a measurement."""
    reward_weights: RewardWeightsConfig = RewardWeightsConfig()
    """Adaptive weights of reward parts."""
    plan: AnyPlanConfig = PlanConfig()
    """Training plan: ordinary, self_training (tasks without true labels), or `file.py:name`.
    `plan: NAME` is short for `plan.name`."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Held-out evaluations and validation."""
    output: OutputConfig = OutputConfig()
    """Adapter and checkpoints."""
    checks: ChecksConfig = ChecksConfig()
    """Checks before and during the run."""
    profiles: dict[Literal["cpu", "gpu"], dict[str, Any]] = Field(default_factory=dict)
    """Settings for one kind of device; they override the others on it."""

    @classmethod
    def outdated_keys(cls, data: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
        return outdated(data)

    @classmethod
    def with_absolute_paths(cls, data: Mapping[str, Any], root: Path) -> Mapping[str, Any]:
        found = dict(data)
        if "algorithm" in data:
            found["algorithm"] = algorithm_paths(data["algorithm"], root)
        if isinstance(profiles := data.get("profiles"), dict):
            found["profiles"] = {
                name: cls.with_absolute_paths(settings, root)
                if isinstance(settings, dict)
                else settings
                for name, settings in profiles.items()
            }
        return found

    @model_validator(mode="before")
    @classmethod
    def _current_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if old := [f"train.{'.'.join(at)} {message}" for at, message in outdated(data)]:
            raise ValueError("\n".join(old))
        return cls.write_out_short_forms(data)

    @model_validator(mode="wrap")
    @classmethod
    def _profiles_fit(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        config = handler(data)
        for name, settings in config.profiles.items() if isinstance(data, dict) else ():
            plain = cls.write_out_short_forms({**data, "profiles": {}})
            try:
                cls.model_validate(merged(plain, cls.write_out_short_forms(settings)))
            except ValidationError as error:
                first = error.errors()[0]
                raise ValueError(
                    f"profiles.{name}.{'.'.join(map(str, first['loc']))}: {first['msg']}"
                ) from None
        return config

    @model_validator(mode="after")
    def _reference_is_the_base(self) -> TrainConfig:
        if self.algorithm.kl.coef > 0 and self.lora.bias != "none":
            raise ValueError(
                "algorithm.kl.coef needs the base model, but trained biases stay active when the "
                "adapter is off. Use lora.bias: none or algorithm.kl.coef: 0"
            )
        return self

    @model_validator(mode="after")
    def _adapter_can_be_served(self) -> TrainConfig:
        lora = self.lora
        found = refusals(
            rank=lora.rank,
            dora=lora.use_dora,
            bias=lora.bias,
            modules_to_save=lora.modules_to_save,
        )
        if found and self.output.adapter != "none":
            raise ValueError(
                f"lora: {'; '.join(found)}; or set train.output.adapter=none, and no adapter is "
                "written"
            )
        return self

    @classmethod
    def of(cls, block: dict[str, Any]) -> TrainConfig:
        """Return the settings of a YAML's block that `load_spec` has checked.

        References to environment variables are replaced by their values, which are shown nowhere.

        Raises:
            PrerequisiteError: If a variable is not set.
        """
        return with_values(cls.model_validate(block))

    def checked(self) -> TrainConfig:
        """Return the settings unchanged if a run can use them together.

        A profile or an override may combine settings that are valid on their own.

        Raises:
            UsageError: If settings contradict each other.
        """
        rollout = self.rollout
        validates = self.evaluation.validate_every_steps > 0
        if self.output.adapter == "best" and not validates:
            raise UsageError(
                "train.output.adapter is best, but train.evaluation.validate_every_steps is 0, so "
                "no validation can choose it. Set train.evaluation.validate_every_steps, such as "
                "to 5, or train.output.adapter=last."
            )
        if rollout.deterministic and rollout.one_step_ahead:
            raise UsageError(
                "train.rollout.deterministic collects and learns in turn, "
                "train.rollout.one_step_ahead at once. Leave one out."
            )
        if self.engine.name == "openai" and (self.steps or self.warm_start.episodes):
            raise UsageError(
                "train.engine.openai gives neither token ids nor log-probabilities, so nothing can "
                "be trained on it. Use train.engine='{vllm: {url: ...}}' to train, or envgym eval "
                "--policy openai:URL to evaluate a model. train.steps=0 and "
                "train.warm_start.episodes=0 evaluate only."
            )
        self.plan.check(
            validates=validates,
            hacking_signals=self.checks.hacking_signals,
            adaptive=self.tasks.adaptive,
            one_step_ahead=rollout.one_step_ahead,
            engine=self.engine.name,
        )
        self.optimizer.check()
        self.controllers.check(
            kl_coef=self.algorithm.kl.coef, learning_rate=self.optimizer.learning_rate
        )
        return self


def merged(settings: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `settings` with those of `over` in front of them, block by block."""
    found = dict(settings)
    for key, value in over.items():
        below = found.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = merged(below, value)
        found[key] = value
    return found
