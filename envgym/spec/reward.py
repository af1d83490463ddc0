"""Schema of the `reward:` block: source, weight, range and gate of each part.

reward:
  solved:  {from: state_match}
  right:   {from: toolrl_correctness, range: [-3, 3]}                # 0 becomes -3, 1 becomes 3
  short:   {from: crm/rewards.py:short, weight: {0: 0.0, 100: 0.5}}  # grows over 100 training steps
  polite:  {from: crm/rewards.py:polite, weight: 0.2, gate: solved}  # counts only if solved is 1
  on_way:  {from: state_progress, per: potential}                    # credit per turn, same optimum
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
"""Number, or numbers by training step: interpolated linearly, constant before the first step and
after the last one."""
Per = Literal["episode", "turn", "call", "potential"]


def at_step(schedule: float | Mapping[int, float], step: int) -> float:
    """Return the value of a schedule at a training step.

    A jump needs two adjacent steps, such as {29: 1, 30: 3}.
    """
    if not isinstance(schedule, Mapping):
        return float(schedule)
    steps = sorted(schedule)
    return float(np.interp(step, steps, [schedule[each] for each in steps]))


class GateSpec(Block):
    """Condition on another part of the reward."""

    on: str
    """Name of the part that opens the gate."""
    at_least: float = 1.0
    """Minimum raw value of that part at which the gate opens."""


class PartSpec(Block):
    """One part of the reward."""

    source: str = Field(alias="from")
    """Name of a part that envgym ships (`state_match`), `file.py:function` or
    `package.module:function`."""
    weight: Schedule = 1.0
    """Weight of the part in the sum. If it is 0, the part is logged as a metric but not rewarded.
    """
    range: tuple[Schedule, Schedule] = (0.0, 1.0)
    """Values to which the part's 0 and 1 are mapped, each a number or a schedule. Other values are
    mapped by the same line."""
    clip: tuple[float, float] | None = None
    """Lower and upper bound of the value after `range`."""
    scale: Literal["none", "running"] = "none"
    """Normalization during training. `running` divides the part by its standard deviation over all
    previous episodes, so that parts with different units have the same scale."""
    gate: GateSpec | None = None
    """Condition on another part: if that part is below `at_least`, this part is 0. The other part's
    name alone is a short form."""
    per: Per = "episode"
    """Unit that the part evaluates. `episode`: the whole episode at its end. `turn` and `call`:
    each turn or each tool call, paid at that turn. `potential`: each turn gets `discount` times the
    value after it minus the value before it, and the final value is 0 (Ng et al., ICML 1999)."""
    discount: float = Field(default=1.0, ge=0, le=1)
    """Discount factor of a potential."""
    grounded: bool | None = None
    """Whether the part is computed from events in the environment; false for a judgement. By
    default the part's declaration decides."""
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
                f"clip: the lower bound {self.clip[0]:g} must be below "
                f"the upper bound {self.clip[1]:g}"
            )
        return self


def check_gates(reward: Mapping[str, PartSpec]) -> None:
    """Raise ValueError if a gate is invalid.

    A gate must name another part, and its own part must be evaluated at the end of the episode.
    """
    for name, part in reward.items():
        if part.gate is None:
            continue
        if part.gate.on not in reward or part.gate.on == name:
            raise ValueError(f"{name}.gate: no other part '{part.gate.on}' ({', '.join(reward)})")
        if part.per != "episode":
            raise ValueError(
                f"{name}.gate: a part with `per: {part.per}` is paid before the episode's end, "
                "when the gate's value is not available yet; use `per: episode`"
            )
