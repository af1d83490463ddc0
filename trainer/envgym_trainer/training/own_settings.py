"""Settings of a run that is resumed: its own, unless other ones are insisted on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from envgym.errors import EnvgymError, UsageError
from envgym.spec.catalog import find_env
from envgym.spec.environment import EnvSpec, load_spec
from envgym.spec.yaml_file import read_yaml
from envgym_trainer.config import TrainConfig
from envgym_trainer.model.rendering_choice import with_rendering
from envgym_trainer.rollout.plans import find_plan
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.settings import Difference, differences

Settings = tuple[EnvSpec, TrainConfig]


def plain_settings(spec: EnvSpec, config: TrainConfig) -> dict[str, Any]:
    """Return all settings in force as plain values."""
    plain: dict[str, Any] = spec.model_dump(mode="json", by_alias=True, exclude={"train"})
    plain["train"] = config.model_dump(mode="json", by_alias=True, exclude={"profiles"})
    return plain


def resolved_yaml(spec: EnvSpec, config: TrainConfig) -> str:
    """Return all settings in force as YAML."""
    plain = plain_settings(spec, config)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)


def settings_of_run(
    folder: RunFolder,
    env: Path | str,
    overrides: Iterable[str] = (),
    *,
    step: int | None = None,
    profile: str | None = None,
) -> Settings:
    """Return the settings with which a run is resumed: its own, and the overrides over them.

    Args:
        folder: Run folder.
        env: Environment of the run: path of its YAML file, name or id.
        overrides: `key=value` settings.
        step: Step whose settings are wanted. Default: the run's last settings.
        profile: Profile of this device, for overrides of a profile.

    Raises:
        UsageError: If the run is one of another environment, or settings contradict each other.
        SpecError: If the settings have mistakes.
    """
    _require_same_env(folder, env)
    changes = folder.changes(step)
    spec = load_spec(env, changes, settings=folder.config_file)
    config = TrainConfig.of(spec.train)
    if overrides := list(overrides):
        given = [*changes, *_over(config, overrides)]
        spec = load_spec(env, given, profile=profile, settings=folder.config_file)
        config = TrainConfig.of(spec.train)
    config.checked()
    find_plan(config.plan.name, spec)
    return spec, config


def _over(config: TrainConfig, overrides: Iterable[str]) -> Iterator[str]:
    """Yield the overrides that change settings in which all short forms are written out.

    A short form sets the defaults of a block, such as those of a preset. The name that the run
    already has changes nothing; another name starts from its own defaults.
    """
    for text in overrides:
        key, _, value = text.partition("=")
        block = key.removeprefix("train.").removesuffix(".preset")
        form = TrainConfig.short_forms.get(block) if key.startswith("train.") else None
        if form and getattr(getattr(config, block), form.key) == value:
            continue
        if form and block == "algorithm" and isinstance(yaml.safe_load(value), str):
            yield "train.algorithm={}"
        yield text


def check_settings(
    folder: RunFolder, given: Settings, *, override: bool = False, step: int | None = None
) -> list[Difference]:
    """Return the settings that differ from the run's own.

    Args:
        folder: Run folder.
        given: Settings with which the run shall continue.
        override: Allow all differences.
        step: Step with whose settings to compare. Default: the run's last settings.

    Raises:
        UsageError: If settings differ that change the steps of the run, unless `override` is set.
    """
    own = settings_of_run(folder, given[0].path, step=step)
    found = differences(plain_settings(*own), plain_settings(*given))
    refused = [difference for difference in found if not difference.is_free]
    if refused and not override:
        lines = "\n".join(f"  {difference.describe()}" for difference in refused)
        raise UsageError(
            f"{folder.path} has other settings:\n{lines}\nA resumed run continues with its own "
            "settings: leave these out. To continue with the new ones from here on, add "
            "--override; to train with them from the start, leave out --resume."
        )
    return found


def changes_of_file(
    folder: RunFolder, env: Path | str, own: Settings, *, profile: str
) -> Iterator[str]:
    """Yield a line for each setting that the environment's file gives another value today.

    The settings of the run's first command line are taken into account. The run keeps its own.
    """
    begun_with = folder.facts().get("settings")
    if begun_with is None:
        return  # The run was not started from the command line.
    try:
        spec = load_spec(env, [*map(str, begun_with), *folder.changes()], profile=profile)
        config = TrainConfig.of(spec.train)
        now = plain_settings(with_rendering(spec, config.model.name), config)
    except EnvgymError as error:
        yield f"{env} cannot be read today ({error}); the run's own settings are used"
        return
    for difference in differences(plain_settings(*own), now):
        told = difference.describe(given_by=str(find_env(env)))
        yield f"{told} today; the run's own setting is used"


def record_changes(
    folder: RunFolder,
    given: Settings,
    after_step: int,
    *,
    command: Sequence[str],
    time: str,
) -> list[Difference]:
    """Record the settings that differ from those in force at the next step, and return them."""
    found = check_settings(folder, given, override=True, step=after_step + 1)
    if found:
        settings = [difference.override for difference in found]
        folder.add_change(after_step, settings, time=time, command=list(command))
    return found


def _require_same_env(folder: RunFolder, env: Path | str) -> None:
    wanted = read_yaml(find_env(env))[0].get("id")
    data = yaml.safe_load(folder.config_file.read_text(encoding="utf-8"))
    before = data.get("id") if isinstance(data, dict) else None
    if before != wanted:
        raise UsageError(
            f"{folder.path} is a run of '{before}', not of '{wanted}'. Resume it with '{before}'."
        )
