"""The `train.algorithm` block: which loss, which advantage, how tokens add up, and who in an episode gets the credit.

`train.algorithm=gspo` names a preset; any setting written beside it goes over the preset's. The clips and `kl_coef` are settings
of `train:` itself; a preset brings clips of its own unless they are written there. Importable without torch.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from envgym.block import Block

Preset = Literal[
    "default",
    "grpo",
    "dr_grpo",
    "dapo",
    "gspo",
    "cispo",
    "rloo",
    "reinforce_pp",
    "reinforce_pp_baseline",
    "gdpo",
    "turns",
    "gigpo",
]
PAPER_CLIPS = {"clip_low": 0.2, "clip_high": 0.2}
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "grpo": {"aggregation": "sequence"} | PAPER_CLIPS,
    "dr_grpo": {"std": "none", "aggregation": "constant"} | PAPER_CLIPS,
    "dapo": {"clip_low": 0.2, "clip_high": 0.28},
    "gspo": {"loss": "gspo", "aggregation": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    "cispo": {"loss": "cispo", "clip_low": 1.0, "clip_high": 4.0},
    "rloo": {
        "loss": "reinforce",
        "advantage": "rloo",
        "aggregation": "constant",
        "constant_length": 1,
    },
    "reinforce_pp": {"advantage": "reinforce_pp", "kl": "k1", "kl_place": "reward"} | PAPER_CLIPS,
    "reinforce_pp_baseline": {"advantage": "reinforce_pp_baseline", "kl": "k2"} | PAPER_CLIPS,
    "gdpo": {"advantage": "gdpo"} | PAPER_CLIPS,
    "turns": {"credit": "turns", "discount": 0.95},
    "gigpo": {"credit": "steps", "discount": 0.95} | PAPER_CLIPS,
}
"""What each preset changes of the defaults of `AlgorithmConfig`, and the clips it brings."""
STD_OF = {
    "rloo": "none",
    "reinforce_pp": "batch",
    "reinforce_pp_baseline": "batch",
    "gdpo": "group",
}
"""The deviation that belongs to an advantage; only `group` leaves the choice."""
CLIPS = ("clip_low", "clip_high")


class CorrectionConfig(Block):
    """Importance sampling between the sampler's probabilities and the trainer's first scoring; costs one forward pass a step.

    With `loss: reinforce`, which has no ratio, it reaches to the current policy and so corrects stale samples as well.
    """

    mode: Literal["none", "truncate", "mask"] = "none"
    """`truncate` bounds the weight by `cap` (TIS); `mask` leaves out what lies beyond `floor` and `cap`."""
    level: Literal["token", "sequence"] = "token"
    """`sequence`: one weight an episode, the product over its sampled tokens; long episodes go beyond the bounds first."""
    cap: float = Field(default=2.0, ge=1)
    floor: float = Field(default=0.0, ge=0, le=1)
    """Of `mask` alone."""


class OverlongConfig(Block):
    """DAPO's soft punishment of long episodes, added to the reward: 0 up to max_tokens - cache_tokens, -1 from max_tokens on."""

    max_tokens: int = Field(ge=1)
    """Sampled tokens of a whole episode."""
    cache_tokens: int = Field(ge=1)
    """Width of the slope."""

    @model_validator(mode="after")
    def _fits(self) -> OverlongConfig:
        if self.cache_tokens > self.max_tokens:
            raise ValueError(
                f"cache_tokens ({self.cache_tokens}) must not exceed max_tokens ({self.max_tokens})"
            )
        return self


class AlgorithmConfig(Block):
    preset: Preset = "default"
    """A named combination; README has the table. `default` is GRPO with token-level aggregation and clip-higher."""
    loss: Literal["grpo", "gspo", "cispo", "reinforce"] = "grpo"
    """Clipped token ratio, clipped sequence ratio, clipped weight, or no ratio at all; see `losses/`."""
    advantage: Literal["group", "rloo", "reinforce_pp", "reinforce_pp_baseline", "gdpo"] = "group"
    """What an episode is compared with; see `advantages*.py`. `gdpo` takes each reward part by itself."""
    std: Literal["group", "batch", "none"] = "group"
    """Divide by the deviation of the group's rewards, of the batch's, or not; a choice for `advantage: group` alone."""
    ddof: int = Field(default=0, ge=0, le=1)
    """0 divides the squares by n, 1 by n - 1 (TRL, verl)."""
    eps: float = Field(default=1e-4, ge=0)
    """Added to every deviation, in reward units."""
    aggregation: Literal["token", "sequence", "constant"] = "token"
    """`token`: every sampled token of the step weighs the same (DAPO); `sequence`: every episode (GRPO's paper); `constant`: tokens
    are summed and divided by episodes times `constant_length` (Dr. GRPO)."""
    constant_length: int | None = Field(default=None, ge=1)
    """Tokens; `train.max_new_tokens` by default. Changes the size of the gradient only."""
    credit: Literal["episode", "turns", "steps"] = "episode"
    """`episode`: all tokens share its advantage; `turns`: each turn gets its own discounted return against the group's mean;
    `steps`: the episode's advantage plus that among turns taken from equal states (GiGPO)."""
    discount: float = Field(default=1.0, ge=0, le=1)
    """Of `turns` and `steps`, for each turn between an action and its reward."""
    step_weight: float = Field(default=1.0, ge=0)
    """Of the step groups' advantage (omega)."""
    anchor: Literal["history", "observation"] = "history"
    """When two states count as equal: after the same conversation, or after the same last observation (GiGPO's own)."""
    mistake_penalty: float = Field(default=0.0, ge=0)
    """Taken from a turn's reward for each refused or unreadable tool call in it; for `turns` and `steps`."""
    kl: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of KL(policy || base) that `train.kl_coef` weighs; see `losses/kl.py` for the gradient of each."""
    kl_place: Literal["loss", "reward"] = "loss"
    correction: CorrectionConfig = CorrectionConfig()
    overlong: OverlongConfig | None = None
    mask_truncated: bool = False
    """Episodes that were cut count for their group's mean and pull no gradient (DAPO's overlong filter)."""

    @model_validator(mode="after")
    def _fits(self) -> AlgorithmConfig:
        belongs = STD_OF.get(self.advantage, self.std)
        if self.std != belongs:
            raise ValueError(
                f"std is '{self.std}', but advantage '{self.advantage}' has std '{belongs}'. Leave std out."
            )
        if self.credit == "turns" and self.advantage != "group":
            raise ValueError(
                f"credit 'turns' needs advantage 'group', not '{self.advantage}'. With that, use credit 'steps'."
            )
        if self.kl == "k1" and self.kl_place == "loss":
            raise ValueError(
                "k1 in the loss has an expected gradient of 0. Use kl_place: reward, or kl: k2 or k3."
            )
        if self.mistake_penalty and self.credit == "episode":
            raise ValueError(
                "mistake_penalty belongs to a turn. Use credit: turns or steps, or a reward part."
            )
        return self


def expand(train: dict[str, Any]) -> dict[str, Any]:
    """A `train:` block with its algorithm written out: the preset's settings under those that were given.

    Args: as read from YAML, not yet checked. What is not a known preset or not a mapping stays for the schema to refuse.
    Returns: a new mapping; expanding it again changes nothing.
    Raises: ValueError where `scale_by_std` contradicts `algorithm.std`.
    """
    given = train.get("algorithm")
    given = {"preset": given} if isinstance(given, str) else {} if given is None else given
    if not isinstance(given, dict) or given.get("preset", "default") not in get_args(Preset):
        return train | {"algorithm": given}
    name: str = given.get("preset", "default")
    preset = PRESETS[name]
    algorithm = {key: value for key, value in preset.items() if key not in CLIPS} | given
    if "std" not in given and algorithm.get("advantage", "group") != "group":
        algorithm["std"] = STD_OF.get(algorithm["advantage"], "group")
    elif "std" not in given and "scale_by_std" in train:
        algorithm["std"] = _std_of_old_key(train["scale_by_std"], algorithm.get("std", "group"))
    scaled = algorithm.get("std", "group") != "none"
    if train.get("scale_by_std", scaled) is (not scaled):
        raise ValueError(
            f"scale_by_std is {str(train['scale_by_std']).lower()}, but algorithm '{name}' has std "
            f"'{algorithm.get('std', 'group')}'. Leave scale_by_std out; algorithm.std says the same and more."
        )
    clips = {key: preset[key] for key in CLIPS if key in preset}
    return clips | {"scale_by_std": scaled} | train | {"algorithm": algorithm}


def _std_of_old_key(scale_by_std: Any, std: str) -> str:
    return "none" if scale_by_std is False else "group" if std == "none" else std
