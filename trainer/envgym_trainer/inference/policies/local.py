"""Policies `model:NAME` and `adapter:PATH`: a local model with the in-process engine.

They play with the settings that a run evaluates with: those in the adapter's manifest, else those
of the YAML's `train:` block with its profile for this device. An adapter also brings the form of
the prompt that it was trained with. The engine lives until the process ends. Training uses another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envgym.errors import UsageError
from envgym.policies import SamplingOverrides
from envgym.secrets import get_logger
from envgym.spec.environment import EnvSpec
from envgym_trainer.config import TrainConfig, merged
from envgym_trainer.inference import EnginePolicy
from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.model.adapter_files import MANIFEST, verify_files
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.load import load_model, pick_device
from envgym_trainer.model.rendering_choice import open_chat, with_rendering
from envgym_trainer.run.folder import RunFolder

if TYPE_CHECKING:
    from envgym.world import World

log = get_logger(__name__)
NO_OVERRIDES = SamplingOverrides()
OLD_RENDERINGS = {"compact": "text", "template": "native"}
"""Rendering in the manifests of earlier versions, which called it `tools`."""


class ModelOpener:
    """Opener of the policy `model:NAME`."""

    def __call__(
        self, argument: str, world: World, *, sampling: SamplingOverrides = NO_OVERRIDES
    ) -> EnginePolicy:
        """Open a model as a policy.

        Args:
            argument: Name after `model:`: built-in name, Hugging Face id or local directory.
            world: World in which the policy will play.
            sampling: Settings that replace those of the `train:` block.
        """
        config = train_config(world.spec)
        model, tokenizer = load_model(argument, device=config.model.device)
        chat = open_chat(world.spec, tokenizer, model=model)
        return _policy(model, chat, evaluation_sampling(config), sampling)

    def settings(self, argument: str, spec: EnvSpec) -> list[str]:
        """Return the form of the prompt for the model, if the environment leaves it open."""
        return _resolved(spec, argument)


open_model = ModelOpener()


class AdapterOpener:
    """Opener of the policy `adapter:RUN_OR_ADAPTER`."""

    def __call__(
        self, argument: str, world: World, *, sampling: SamplingOverrides = NO_OVERRIDES
    ) -> EnginePolicy:
        """Open an adapter as a policy on its base model.

        Args:
            argument: Adapter folder or run folder, after `adapter:`.
            world: World in which the policy will play.
            sampling: Settings that replace those of the manifest or the `train:` block.

        Raises:
            UsageError: If the folder has no adapter, or if its files differ from its manifest.
        """
        from peft import PeftModel

        folder = adapter_folder(argument)
        base = base_of(folder)
        manifest = verified_manifest(folder)
        config = train_config(world.spec)
        model, tokenizer = load_model(base, device=config.model.device)
        adapted = PeftModel.from_pretrained(model, folder)
        template = manifest.get("template", "auto")
        chat = open_chat(world.spec, tokenizer, model=adapted, template=template)
        recorded = manifest.get("sampling", {})
        for key, value in _given(sampling).items():
            if key in recorded and recorded[key] != value:
                log.warning("%s: %s: run has %s, option has %s", folder, key, recorded[key], value)
        policy = _policy(adapted, chat, evaluation_sampling(config) | recorded, sampling)
        policy.engine.load_adapter(adapted)
        return policy

    def settings(self, argument: str, spec: EnvSpec) -> list[str]:
        """Return the form of the prompt in the adapter's run, as `key=value` settings.

        A dialect in a Python file is left out: a folder from somebody else may name any file.
        """
        folder = adapter_folder(argument)
        prompt = _read_manifest(folder).get("prompt", {})
        shipped = [name for name in prompt.get("dialects", ()) if ":" not in str(name)]
        found = {
            "rendering": prompt.get("rendering") or OLD_RENDERINGS.get(str(prompt.get("tools"))),
            "keep_reasoning": prompt.get("keep_reasoning"),
            "chat_template_kwargs": prompt.get("chat_template_kwargs"),
        }
        if len(shipped) == len(prompt.get("dialects", ())):
            found["dialects"] = shipped
        known = [f"prompt.{key}={json.dumps(value)}" for key, value in found.items() if value]
        return known if found["rendering"] else [*_resolved(spec, base_of(folder)), *known]


open_adapter = AdapterOpener()


def adapter_folder(argument: str) -> Path:
    """Return the folder of the adapter that an adapter folder or a run folder names.

    Raises:
        UsageError: If a link in a run folder leads out of it.
    """
    folder = Path(argument).expanduser()
    if (folder / "adapter_config.json").exists() or not (folder / "config.yaml").is_file():
        return folder
    return RunFolder.open(folder).adapter


def train_config(spec: EnvSpec) -> TrainConfig:
    """Return the `train:` block of an environment with its profile for this device."""
    config = TrainConfig.of(spec.train)
    profile = "gpu" if pick_device(config.model.device).startswith("cuda") else "cpu"
    if profile not in config.profiles:
        return config
    plain = TrainConfig.write_out_short_forms(spec.train)
    over = TrainConfig.write_out_short_forms(config.profiles[profile])
    return TrainConfig.of(merged(plain, over))


def evaluation_sampling(config: TrainConfig) -> dict[str, float]:
    """Return the settings of a run's evaluations. They are saved in the adapter's manifest."""
    return {
        "temperature": config.evaluation.temperature,
        "max_turn_tokens": config.rollout.max_turn_tokens,
        "max_context_tokens": config.rollout.max_context_tokens,
    }


def rendering(spec: EnvSpec) -> dict[str, Any]:
    """Return the form of an environment's prompt. It is saved in the adapter's manifest."""
    prompt = spec.prompt
    return {
        "rendering": "native" if prompt.rendering == "native" else "text",
        "dialects": list(prompt.dialects),
        "keep_reasoning": prompt.keep_reasoning,
        "chat_template_kwargs": dict(prompt.chat_template_kwargs),
    }


def _resolved(spec: EnvSpec, model: str) -> list[str]:
    """Return the form of the prompt for a model as settings; none if the environment has one."""
    if spec.prompt.rendering != "auto":
        return []
    prompt = with_rendering(spec, model).prompt
    found = [f"prompt.rendering={prompt.rendering}"]
    if prompt.dialects != spec.prompt.dialects:
        found.append(f"prompt.dialects={json.dumps(prompt.dialects)}")
    return found


def base_of(folder: Path) -> str:
    """Return the name of the adapter's base model."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise UsageError(
            f"{folder}: no adapter_config.json in this folder. Give a finished run, such as "
            "runs/NAME, or its adapter, runs/NAME/adapter."
        )
    name = str(json.loads(path.read_text())["base_model_name_or_path"])
    if Path(name).is_absolute() and not Path(name).is_dir():  # a folder of another machine
        name = str(_read_manifest(folder).get("base_model", name))
    return name


def verified_manifest(folder: Path) -> Mapping[str, Any]:
    """Return the manifest after checking the files in it, except the model card.

    The card may be edited. Adapters of other tools have no manifest; then it is empty.
    """
    if (folder / MANIFEST).is_file():
        return verify_files(folder, ignore=["README.md"])
    log.warning(
        "WARNING: %s has no %s: its files are taken as they are, and the sampling settings are "
        "those of the YAML",
        folder,
        MANIFEST,
    )
    return {}


def _read_manifest(folder: Path) -> Mapping[str, Any]:
    """Return the manifest without checking the other files; empty if it is missing."""
    if not (folder / MANIFEST).is_file():
        return {}
    return verify_files(folder, ignore=[path.name for path in folder.iterdir()])


def _given(overrides: SamplingOverrides) -> dict[str, float]:
    given = {
        "temperature": overrides.temperature,
        "max_turn_tokens": overrides.max_turn_tokens,
        "max_context_tokens": overrides.max_context_tokens,
    }
    return {key: value for key, value in given.items() if value is not None}


def _policy(
    model: Any, chat: Chat, settings: Mapping[str, float], overrides: SamplingOverrides
) -> EnginePolicy:
    chosen = {**settings, **_given(overrides)}
    engine = InProcessEngine(model, chat, max_context=int(chosen["max_context_tokens"]))
    return engine.policy(
        temperature=chosen["temperature"], max_new_tokens=int(chosen["max_turn_tokens"])
    )
