"""The `train.algorithm` block: loss, advantage, aggregation, KL penalty and corrections.

A preset (`train.algorithm=gspo`) sets several of them at once; see `presets/`. A setting that is
written beside it takes precedence. Importable without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from envgym.block import Block
from envgym.errors import did_you_mean
from envgym_trainer.config.presets import load_preset, preset_names

LOSSES: Mapping[str, Mapping[str, Any]] = {
    "grpo": {"clip_low": 0.2, "clip_high": 0.28},
    "gspo": {"clip_low": 3e-4, "clip_high": 4e-4},
    "cispo": {"clip_low": 1.0, "clip_high": 4.0},
    "reinforce": {},
}
"""Options of each loss with their defaults."""
ADVANTAGES: Mapping[str, Mapping[str, Any]] = {
    "group": {"std": "group", "ddof": 0, "eps": 1e-4},
    "rloo": {},
    "reinforce_pp": {"eps": 1e-4},
    "reinforce_pp_baseline": {"eps": 1e-4},
    "gdpo": {"ddof": 0, "eps": 1e-4},
    "turns": {"std": "group", "eps": 1e-4, "discount": 1.0, "invalid_call_penalty": 0.0},
    "gigpo": {
        "std": "group",
        "ddof": 0,
        "eps": 1e-4,
        "discount": 1.0,
        "step_weight": 1.0,
        "same_state": "history",
        "invalid_call_penalty": 0.0,
    },
}
"""Options of each advantage with their defaults."""
FIXED_STD = {"rloo": "none", "reinforce_pp": "batch", "reinforce_pp_baseline": "batch"}
"""Standard deviation of an advantage that offers no choice; recorded, and harmless if given."""


def known_options(kind: str, name: str) -> Mapping[str, Any]:
    """Return the options of a loss or an advantage with their defaults.

    Args:
        kind: "loss" or "advantage".
        name: Name of the loss or the advantage.

    Raises:
        ValueError: If there is none of this name.
    """
    table = LOSSES if kind == "loss" else ADVANTAGES
    if name not in table:
        hint = did_you_mean(name, table) or "."
        raise ValueError(f"{kind} '{name}' is unknown{hint} Available: {', '.join(table)}")
    return table[name]


def _with_defaults(kind: str, data: Any, model: type[Block]) -> Any:
    """Return the block with the options that its loss or advantage has by default.

    Raises:
        ValueError: If the name is unknown, or an option is set that the named one does not have.
    """
    if not isinstance(data, dict):
        return data
    name = data.get("name", model.model_fields["name"].default)
    options = known_options(kind, name)
    fixed = {"std": FIXED_STD[name]} if name in FIXED_STD else {}
    for key, field in model.model_fields.items():
        if key == "name" or key in options or key not in data:
            continue
        if data[key] != fixed.get(key, field.default):
            raise ValueError(
                f"{kind} '{name}' has no option {key}. "
                f"It has: {', '.join(options) or 'none'}. Leave {key} out"
            )
    return {**options, **data, **fixed}


class LossConfig(Block):
    """Loss and its options."""

    name: str = "grpo"
    """Loss: grpo (clipped token ratio), gspo (clipped sequence ratio), cispo (clipped weight) or
    reinforce (no ratio, no clip)."""
    clip_low: float = Field(default=0.2, gt=0)
    """Distance of the ratio's lower clip from 1. Above 0. Default: 0.2; gspo 3e-4; cispo 1."""
    clip_high: float = Field(default=0.28, gt=0)
    """Distance of the ratio's upper clip from 1. Above 0. A value above `clip_low` leaves room to
    explore (DAPO). Default: 0.28; gspo 4e-4; cispo 4."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        return _with_defaults("loss", data, cls)


class AdvantageConfig(Block):
    """Advantage and its options."""

    name: str = "group"
    """Advantage: group (GRPO), rloo, reinforce_pp, reinforce_pp_baseline, gdpo (each reward part on
    its own), turns (discounted return of each turn) or gigpo (episode and equal states)."""
    std: Literal["group", "batch", "none"] = "group"
    """Standard deviation by which advantages are divided. For group, turns and gigpo."""
    ddof: int = Field(default=0, ge=0, le=1)
    """Delta degrees of freedom of the standard deviation: squares are divided by n - ddof. 1 is the
    choice of TRL and verl. For group, gdpo and gigpo."""
    eps: float = Field(default=1e-4, ge=0)
    """Number added to the standard deviation. Reward units. At least 0. Not for rloo."""
    discount: float = Field(default=1.0, ge=0, le=1)
    """Discount for each turn between an action and its reward. 0 to 1. For turns and gigpo."""
    step_weight: float = Field(default=1.0, ge=0)
    """Weight of the advantage among equal states (omega). At least 0. For gigpo."""
    same_state: Literal["history", "observation"] = "history"
    """Criterion for equal states: the same conversation, or the same last observation as in the
    GiGPO paper. For gigpo."""
    invalid_call_penalty: float = Field(default=0.0, ge=0)
    """Penalty for each refused or unreadable tool call, subtracted from the reward of its turn.
    Reward units. At least 0. For turns and gigpo."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        return _with_defaults("advantage", data, cls)


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
    """Estimator of KL(policy || base); see `losses/kl.py` for the gradient of each."""
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
    preset: str = Field(default="default", json_schema_extra={"enum": list(preset_names())})
    """Named combination of settings: a file of `presets/`."""
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
    """Exclude truncated episodes from the gradient; they still count for the group's mean
    (DAPO)."""

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, data: Any) -> Any:
        return with_preset(data)

    @field_validator("preset")
    @classmethod
    def _is_known(cls, name: str) -> str:
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
    if not isinstance(data, dict) or data.get("preset", "default") not in preset_names():
        return data
    merged: dict[str, Any] = {}
    for key, settings in load_preset(data.get("preset", "default")).items():
        own = data.get(key, {})
        if isinstance(own, dict) and isinstance(settings, dict):
            is_another = any(
                own.get(which, settings.get(which)) != settings.get(which)
                for which in ("name", "kind")
            )
            merged[key] = own if is_another else settings | own
    return data | merged
