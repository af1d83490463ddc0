"""Controllers that adapt one update setting to a measurement, and save their state.

This folder is the registry: a file `NAME.py` with one subclass of `Controller` is the controller
`train.controllers.NAME`. All measurements are means over sampled tokens, in nats. See `learner.py`
for the measurements and `off_policy.py` for `max_kl`, which is a stop rule without state.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from envgym_trainer.config.controllers import ControllersConfig
from envgym_trainer.learner.update_settings import UpdateSettings

STEP_KL = "controller/step_kl"
"""Metric of `Learner.step_kl`. It costs one forward pass, so it is measured only on demand."""


class Controller(ABC):
    """Controller of one field of `UpdateSettings`.

    Args:
        options: Block of `train.controllers` with this controller's name.
        start: Initial value of the setting.
    """

    setting: ClassVar[str]
    """Field of `UpdateSettings` that the controller sets."""
    metric: ClassVar[str]
    """Metric that the controller reads."""
    skips_warm_up: ClassVar[bool] = False
    """Whether the controller is unchanged while the learner warms up its learning rate."""

    def __init__(self, options: Any, start: float):
        self.options = options
        self.value = start

    @abstractmethod
    def update(self, metrics: Mapping[str, float]) -> None:
        """Set `value` for the next step. Called only if `metric` was measured and is finite.

        Args:
            metrics: Metrics of the step that was just made.
        """

    def state_dict(self) -> dict[str, float]:
        """Return the state for an exact resume."""
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore the state."""
        self.value = state["value"]


class Controllers:
    """All controllers of a run. Their state is saved in its checkpoints.

    Args:
        config: `train.controllers`. A controller without an entry is off.
        settings: Settings at the start of the run.
    """

    def __init__(self, config: ControllersConfig, settings: UpdateSettings):
        self.controllers: dict[str, Controller] = {}
        for name, kind in find_controllers().items():
            if (options := getattr(config, name, None)) is not None:
                self.controllers[name] = kind(options, getattr(settings, kind.setting))

    @property
    def needs_step_kl(self) -> bool:
        """Whether a controller reads the KL of a whole step, which costs one forward pass."""
        return any(controller.metric == STEP_KL for controller in self.controllers.values())

    def next(
        self,
        settings: UpdateSettings,
        metrics: Mapping[str, float],
        *,
        is_warming_up: bool = False,
    ) -> UpdateSettings:
        """Update each controller after a step, and return the settings of the next step.

        A controller is unchanged if its measurement is missing or not finite (no update was made).

        Args:
            settings: Settings of the step that was just made.
            metrics: Metrics of that step.
            is_warming_up: Whether the learner warms up its learning rate.
        """
        for controller in self.controllers.values():
            if is_warming_up and controller.skips_warm_up:
                continue
            if math.isfinite(metrics.get(controller.metric, math.nan)):
                controller.update(metrics)
        return self.apply(settings)

    def apply(self, settings: UpdateSettings) -> UpdateSettings:
        """Return the settings with the controllers' current values."""
        return replace(settings, **{each.setting: each.value for each in self.controllers.values()})

    def metrics(self) -> dict[str, float]:
        """Return the values for the next step as `controller/SETTING`."""
        return {f"controller/{each.setting}": each.value for each in self.controllers.values()}

    def state_dict(self) -> dict[str, Any]:
        return {name: each.state_dict() for name, each in self.controllers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state. A controller without a saved state starts from its settings."""
        for name, controller in self.controllers.items():
            if name in state:
                controller.load_state_dict(state[name])


def find_controllers() -> dict[str, type[Controller]]:
    """Return the controllers of this folder by the name of their file."""
    return {
        module.name: _controller_class(module.name) for module in pkgutil.iter_modules(__path__)
    }


def _controller_class(name: str) -> type[Controller]:
    module = importlib.import_module(f"{__name__}.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Controller)
        and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(
            f"{module.__file__} must define exactly one subclass of Controller, not {len(found)}."
        )
    return found[0]
