"""The `train.algorithm` block: loss, advantage, aggregation, KL penalty and corrections.

A preset (`train.algorithm=gspo`) sets several of them at once; see `presets/`. A setting that is
written beside it takes precedence. See `options.py` for the options of a loss or an advantage.
Importable without torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from envgym.block import Block
from envgym_trainer.config.options import Kind, filled_in, options_schema
from envgym_trainer.config.presets import is_file, load_preset, preset_names


class LossConfig(Block):
    """Loss with its options, which are the keyword-only parameters of its function."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra=lambda schema: _add_options(schema, "loss")
    )

    name: str = "grpo"
    """Loss: a file of `algorithms/losses/` (grpo, gspo, cispo, reinforce), `file.py:name` or
    `package.module:name`."""

    @property
    def options(self) -> dict[str, Any]:
        """Options with their values, by name."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def clip_low(self) -> float | None:
        """Option `clip_low`, or `None` if the loss has no such option."""
        return self.options.get("clip_low")

    @property
    def clip_high(self) -> float | None:
        """Option `clip_high`, or `None` if the loss has no such option."""
        return self.options.get("clip_high")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        return filled_in("loss", data, default="grpo") if isinstance(data, dict) else data


class AdvantageConfig(Block):
    """Advantage with its options, which are the keyword-only parameters of its function."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra=lambda schema: _add_options(schema, "advantage")
    )

    name: str = "group"
    """Advantage: a file of `algorithms/advantages/` (group is GRPO's), `file.py:name` or
    `package.module:name`."""

    @property
    def options(self) -> dict[str, Any]:
        """Options with their values, by name."""
        return dict(self.__pydantic_extra__ or {})

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        return filled_in("advantage", data, default="group") if isinstance(data, dict) else data


def _add_options(schema: dict[str, Any], kind: Kind) -> None:
    schema["properties"] |= options_schema(kind)


class AggregationConfig(Block):
    """Weights of the tokens in the loss."""

    kind: Literal["token", "sequence", "constant"] = "token"
    """Weight of a token in the loss. token: every sampled token of the step weighs the same (DAPO);
    sequence: every episode weighs the same (GRPO); constant: the sum over tokens is divided by the
    number of episodes times `length_tokens` (Dr. GRPO)."""
    length_tokens: int | None = Field(default=None, ge=1)
    """Constant length of an episode for `kind: constant`. Tokens. At least 1. Default:
    `rollout.max_turn_tokens`. It scales the gradient only."""

    @model_validator(mode="after")
    def _length_is_used(self) -> AggregationConfig:
        if self.length_tokens is not None and self.kind != "constant":
            raise ValueError(
                f"length_tokens belongs to kind 'constant', not '{self.kind}'. Leave it out"
            )
        return self


class KLConfig(Block):
    """KL penalty towards the base model (the model without its adapter)."""

    coef: float = Field(default=0.0, ge=0)
    """Weight of the penalty. At least 0; 0 turns it off and saves a forward pass."""
    estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of KL(policy || base); see `algorithms/kl.py` for the gradient of each."""
    place: Literal["loss", "reward"] = "loss"
    """Place of the penalty: a term of the loss, or a part of the reward of each token."""

    @model_validator(mode="after")
    def _has_a_gradient(self) -> KLConfig:
        if self.estimator == "k1" and self.place == "loss":
            raise ValueError(
                "estimator k1 in the loss has an expected gradient of 0. "
                "Use place: reward, or estimator: k2 or k3"
            )
        return self


class ImportanceWeightsConfig(Block):
    """Correction of the difference between the engine's and the learner's probabilities.

    It costs one forward pass a step. With loss reinforce, which has no ratio, the weight is taken
    to the current policy and therefore corrects stale samples as well."""

    mode: Literal["none", "truncate", "mask"] = "none"
    """truncate: bound the weight by `max` (TIS). mask: exclude weights outside of `min` and
    `max`."""
    per: Literal["token", "sequence"] = "token"
    """Unit of a weight: each token, or each episode (the product over its sampled tokens)."""
    max: float = Field(default=2.0, ge=1)
    """Upper bound of a weight. At least 1."""
    min: float = Field(default=0.0, ge=0, le=1)
    """Lower bound of a weight for `mode: mask`. 0 to 1."""

    @model_validator(mode="after")
    def _lower_bound_is_used(self) -> ImportanceWeightsConfig:
        if self.min and self.mode != "mask":
            raise ValueError(f"min belongs to mode 'mask', not '{self.mode}'. Leave it out")
        return self


class OverlongPenaltyConfig(Block):
    """Penalty for long episodes (DAPO), added to the reward.

    It is 0 up to `max_tokens - slope_tokens` and falls linearly to -1 at `max_tokens`.
    """

    max_tokens: int = Field(ge=1)
    """Length of an episode with the full penalty. Sampled tokens. At least 1."""
    slope_tokens: int = Field(ge=1)
    """Width of the slope. Tokens. 1 to `max_tokens`."""

    @model_validator(mode="after")
    def _slope_fits(self) -> OverlongPenaltyConfig:
        if self.slope_tokens > self.max_tokens:
            raise ValueError(
                f"slope_tokens ({self.slope_tokens}) must not exceed max_tokens ({self.max_tokens})"
            )
        return self


class AlgorithmConfig(Block):
    preset: str = Field(default="default", json_schema_extra={"examples": list(preset_names())})
    """Named combination of settings: a file of `presets/`, or the path of your own `file.yaml`."""
    loss: LossConfig = LossConfig()
    advantage: AdvantageConfig = AdvantageConfig()
    aggregation: AggregationConfig = AggregationConfig()
    kl: KLConfig = KLConfig()
    entropy_coef: float = Field(default=0.0, ge=0)
    """Weight of a bonus for the entropy of sampled tokens. Per nat. At least 0. Above 0, samples
    without an advantage are computed too."""
    importance_weights: ImportanceWeightsConfig = ImportanceWeightsConfig()
    overlong_penalty: OverlongPenaltyConfig | None = None
    mask_truncated: bool = False
    """Exclude episodes that were cut from the gradient: by a token limit of the answer or the
    context, or by the turn limit. They still count for the group's mean (DAPO)."""

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, data: Any) -> Any:
        return with_preset(data)

    @field_validator("preset")
    @classmethod
    def _exists(cls, name: str) -> str:
        load_preset(name)
        return name


def with_preset(data: Any) -> Any:
    """Return an algorithm block with the settings of its preset filled in.

    Args:
        data: The block as read from YAML: a mapping, or the name of a preset. Anything that is not
            valid is returned unchanged, so that the schema refuses it.

    Returns:
        A new mapping. Expanding it again changes nothing. If the block names another loss,
        advantage or aggregation than the preset, the options of the preset's one are dropped.
    """
    data = {"preset": data} if isinstance(data, str) else data
    if not isinstance(data, dict):
        return data
    name = data.get("preset", "default")
    try:
        preset = load_preset(name)
    except (ValueError, AttributeError):
        return data
    if is_file(name):
        preset = with_absolute_paths(preset, Path(name).absolute().parent)
    merged: dict[str, Any] = {}
    for key, settings in preset.items():
        own = data.get(key, {})
        if isinstance(own, dict) and isinstance(settings, dict):
            is_another = any(
                own.get(which, settings.get(which)) != settings.get(which)
                for which in ("name", "kind")
            )
            merged[key] = own if is_another else settings | own
        elif key not in data:
            merged[key] = settings
    return data | merged


def with_absolute_paths(data: Any, root: Path) -> Any:
    """Return an algorithm block whose files are absolute.

    Args:
        data: The block as read from YAML: a mapping, or the name of a preset.
        root: Folder to which the paths are relative.
    """
    if isinstance(data, str):
        return str(root.absolute() / data) if is_file(data) else data
    if not isinstance(data, dict):
        return data
    found = dict(data)
    if isinstance(preset := found.get("preset"), str):
        found["preset"] = with_absolute_paths(preset, root)
    for key in ("loss", "advantage"):
        block = found.get(key)
        if not isinstance(block, dict):
            continue
        name = block.get("name")
        if isinstance(name, str) and name.rpartition(":")[0].endswith(".py"):
            found[key] = block | {"name": str(root.absolute() / name)}
    return found
