"""What a YAML may say of one part of the reward: where it comes from, how much it counts, when, and for what.

reward:
  solved:  {from: state_match}
  right:   {from: toolrl_correctness, range: [-3, 3]}                      # 0 becomes -3, 1 becomes 3
  short:   {from: crm/rewards.py:short, weight: {0: 0.0, 100: 0.5}}        # grows over the first 100 training steps
  polite:  {from: crm/rewards.py:polite, weight: 0.2, gate: solved}        # counts only where the task was solved
  on_way:  {from: state_progress, per: potential}                          # moves credit between turns, never the optimum
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag, model_validator

from envgym.block import Block

Schedule = Annotated[
    Annotated[float, Tag("<number>")]
    | Annotated[dict[Annotated[int, Field(ge=0)], float], Field(min_length=1), Tag("<schedule>")],
    Discriminator(lambda value: "<schedule>" if isinstance(value, Mapping) else "<number>"),
]
"""A number, or numbers by training step: in straight lines between them, constant before the first and after the last."""
Per = Literal["episode", "turn", "call", "potential"]


def at_step(schedule: float | Mapping[int, float], step: int) -> float:
    """A schedule's number at a training step; a jump is two neighbouring steps, such as {29: 1, 30: 3}."""
    if not isinstance(schedule, Mapping):
        return float(schedule)
    steps = sorted(schedule)
    return float(np.interp(step, steps, [schedule[each] for each in steps]))


class GateSpec(Block):
    on: str
    """The part that must be met first."""
    at_least: float = 1.0
    """Its value, as it came, from which on it is met."""


class PartSpec(Block):
    source: str = Field(alias="from")
    """A part that envgym ships (`state_match`), `file.py:function` or `package.module:function`."""
    weight: Schedule = 1.0
    """Factor in the sum; 0 makes it a metric that is logged and not rewarded."""
    range: tuple[Schedule, Schedule] = (0.0, 1.0)
    """What the part's 0 and its 1 become, each a number or a schedule; what lies between or beyond follows the same line."""
    clip: tuple[float, float] | None = None
    """Bounds of what comes of that."""
    scale: Literal["none", "running"] = "none"
    """`running`: while training, divided by the part's deviation over all episodes so far, so that parts of different units
    weigh alike."""
    gate: GateSpec | None = None
    """The part counts only where another one is met; else it is 0. Short: the other's name."""
    per: Per = "episode"
    """What it judges: the episode at its end; each turn, or each tool call, by itself, paid at that turn; or `potential`: each turn
    earns `discount` times the value after it less the value before it, and the end has none (Ng et al., ICML 1999)."""
    discount: float = Field(default=1.0, ge=0, le=1)
    """Of a potential."""
    grounded: bool | None = None
    """Whether it is computed from what happened in the environment; false for a judgement. As the part declares by default."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the part."""

    @model_validator(mode="before")
    @classmethod
    def _short_gate(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("gate"), str):
            return data | {"gate": {"on": data["gate"]}}
        return data

    @model_validator(mode="after")
    def _bounds_in_order(self) -> PartSpec:
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ValueError(
                f"clip: the lower bound {self.clip[0]:g} must be below the upper one {self.clip[1]:g}"
            )
        return self


def check_gates(reward: Mapping[str, PartSpec]) -> None:
    """Raises ValueError for a gate that leads nowhere, or to what is not known yet when the part is paid."""
    for name, part in reward.items():
        if part.gate is None:
            continue
        if part.gate.on not in reward or part.gate.on == name:
            raise ValueError(f"{name}.gate: no other part '{part.gate.on}' ({', '.join(reward)})")
        if part.per != "episode":
            raise ValueError(
                f"{name}.gate: a part per {part.per} is paid before the episode's end and cannot wait for another"
            )
