"""Keys of the `train:` block that were renamed or removed, with what to write instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_CUT = (
    "is not supported: it samples from a truncated distribution, but the loss uses the full one, "
    "so the gradient would be biased. Leave it out; train.rollout.temperature acts on both"
)
REMOVED: Mapping[str, str] = {
    "scale_by_std": "is gone. Use train.algorithm.advantage.std: group, batch or none",
    "sampling.top_p": _CUT,
    "sampling.top_k": _CUT,
    "sampling.repetition_penalty": (
        "is not supported: it makes a token's probability depend on earlier tokens by a rule that "
        "the trained model does not have, so the ratio of the loss would be wrong. Leave it out; "
        "to discourage repetition, add a reward part with a negative weight"
    ),
    "sampling": _CUT,
}
"""Old key -> why it is gone, and what to do."""
RENAMED: Mapping[str, str] = {
    "device": "model.device",
    "dtype": "model.dtype",
    "lora.quantize": "model.quantize",
    "lora.rslora": "lora.use_rslora",
    "lora.dora": "lora.use_dora",
    "lora.export": "output.adapter",
    "export": "output.adapter",
    "levels": "tasks.levels",
    "curriculum.adaptive": "tasks.adaptive",
    "curriculum.floor": "tasks.min_weight",
    "curriculum.decay": "tasks.pass_rate_decay",
    "curriculum.unlock_at": "tasks.unlock_at",
    "curriculum.horizon.start": "tasks.horizon.start_turns",
    "curriculum.horizon.end": "tasks.horizon.end_turns",
    "curriculum.horizon.steps": "tasks.horizon.over_steps",
    "curriculum.horizon.score": "tasks.horizon.grow_at",
    "tasks_per_step": "rollout.groups_per_step",
    "group_size": "rollout.group_size",
    "max_extra_groups": "rollout.max_extra_groups",
    "max_new_tokens": "rollout.max_turn_tokens",
    "max_context": "rollout.max_context_tokens",
    "temperature": "rollout.temperature",
    "workers": "rollout.max_concurrent_episodes",
    "one_step_off": "rollout.one_step_ahead",
    "deterministic": "rollout.deterministic",
    "server.url": "engine.vllm.url",
    "server.model": "engine.vllm.model",
    "server.adapters": "engine.vllm.adapter_folder",
    "engine.url": "engine.vllm.url",
    "engine.model": "engine.vllm.model",
    "engine.adapter_folder": "engine.vllm.adapter_folder",
    "engine.key": "engine.vllm.key",
    "warmup.demos": "warm_start.episodes",
    "warmup.demos_per_step": "warm_start.episodes_per_step",
    "warmup.learning_rate": "warm_start.learning_rate",
    "learning_rate": "optimizer.learning_rate",
    "lr_warmup_steps": "optimizer.warmup_updates",
    "weight_decay": "optimizer.weight_decay",
    "max_grad_norm": "optimizer.max_grad_norm",
    "updates_per_step": "optimizer.updates_per_step",
    "epochs_per_step": "optimizer.epochs_per_step",
    "max_tokens_per_micro_batch": "optimizer.micro_batch_tokens",
    "algorithm.loss": "algorithm.loss.name",
    "clip_low": "algorithm.loss.clip_low",
    "clip_high": "algorithm.loss.clip_high",
    "algorithm.advantage": "algorithm.advantage.name",
    "algorithm.std": "algorithm.advantage.std",
    "algorithm.ddof": "algorithm.advantage.ddof",
    "algorithm.eps": "algorithm.advantage.eps",
    "algorithm.credit": "algorithm.advantage.name (turns, or gigpo for steps)",
    "algorithm.discount": "algorithm.advantage.discount",
    "algorithm.step_weight": "algorithm.advantage.step_weight",
    "algorithm.anchor": "algorithm.advantage.same_state",
    "algorithm.mistake_penalty": "algorithm.advantage.invalid_call_penalty",
    "algorithm.aggregation": "algorithm.aggregation.kind",
    "algorithm.constant_length": "algorithm.aggregation.length_tokens",
    "kl_coef": "algorithm.kl.coef",
    "algorithm.kl": "algorithm.kl.estimator",
    "algorithm.kl_place": "algorithm.kl.place",
    "entropy_coef": "algorithm.entropy_coef",
    "algorithm.correction.mode": "algorithm.importance_weights.mode",
    "algorithm.correction.level": "algorithm.importance_weights.per",
    "algorithm.correction.cap": "algorithm.importance_weights.max",
    "algorithm.correction.floor": "algorithm.importance_weights.min",
    "algorithm.overlong.max_tokens": "algorithm.overlong_penalty.max_tokens",
    "algorithm.overlong.cache_tokens": "algorithm.overlong_penalty.slope_tokens",
    "controllers.learning_rate.lowest": "controllers.learning_rate.min",
    "controllers.learning_rate.highest": "controllers.learning_rate.max",
    "controllers.entropy.lowest": "controllers.entropy.min",
    "controllers.entropy.highest": "controllers.entropy.max",
    "controllers.entropy.proportional": "controllers.entropy.proportional_gain",
    "controllers.max_kl": "optimizer.max_kl",
    "reward_weights.bound": "reward_weights.max_factor",
    "reward_weights.saturated": "reward_weights.min_varying_fraction",
    "reward_weights.feedback": "reward_weights.feedback_file",
    "reward_weights.prior": "reward_weights.prior_strength",
    "self_training.pool": "plan.pool_size",
    "self_training.easiest": "plan.easiest_fraction",
    "self_training.true_labels": "plan.true_label_fraction",
    "self_training.label_budget": "plan.max_true_labels",
    "self_training.labelled_levels": "plan.labelled_levels",
    "self_training.labelled_groups": "plan.labelled_group_fraction",
    "self_training.label_free": "plan.label_free_parts",
    "self_training.keep": "plan.keep_fraction",
    "self_training.teacher": "plan.teacher",
    "self_training.teacher_decay": "plan.teacher_decay",
    "self_training": "plan: self_training",
    "server": "engine: {vllm: {url: ...}}",
    "eval.split": "evaluation.split",
    "eval.tasks": "evaluation.tasks",
    "eval.base_tasks": "evaluation.base_tasks",
    "eval.temperature": "evaluation.temperature",
    "eval.every": "evaluation.validate_every_steps",
    "eval.val_tasks": "evaluation.validation_tasks",
    "save_every": "output.checkpoint_every_steps",
    "keep_checkpoints": "output.keep_checkpoints",
    "preflight": "checks.preflight",
    "on_mismatch": "checks.on_mismatch",
    "signals": "checks.hacking_signals",
    "eval": "evaluation",
    "warmup": "warm_start",
    "curriculum": "tasks",
    "curriculum.horizon": "tasks.horizon",
    "algorithm.correction": "algorithm.importance_weights",
    "algorithm.overlong": "algorithm.overlong_penalty",
}
"""Old key -> new key, both below `train`."""
BLOCKS_NOW = frozenset({"algorithm.loss", "algorithm.advantage", "algorithm.aggregation"}) | {
    "algorithm.kl"
}
"""Old keys that are the name of a block today; only a plain value is old."""


def outdated(train: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the outdated keys of a `train:` block, each with the message for it.

    Args:
        train: The block as read from YAML; settings under `profiles` are searched too.
    """
    for at, value in _items(train, ()):
        prefix = "train."
        key = at
        if at[0] == "profiles":
            prefix = f"train.profiles.{at[1]}." if len(at) > 1 else ""
            key = at[2:]
        name = ".".join(key)
        if name in REMOVED and not _has_known_keys(name, value):
            yield at, REMOVED[name]
        elif name in RENAMED and not _has_known_keys(name, value):
            yield at, f"is now {prefix}{RENAMED[name]}"


def _has_known_keys(name: str, value: Any) -> bool:
    """Whether the keys inside are reported instead, or the block is a valid one."""
    if not isinstance(value, Mapping):
        return False
    known = any(f"{name}.{key}" in RENAMED or f"{name}.{key}" in REMOVED for key in value)
    return name in BLOCKS_NOW or known


def _items(block: Mapping[str, Any], at: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in block.items():
        here = (*at, str(key))
        yield here, value
        if isinstance(value, Mapping):
            yield from _items(value, here)
