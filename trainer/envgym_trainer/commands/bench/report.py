"""Cost of a training run as `envgym bench` reports it: numbers, recommended settings and table."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.table import Table

from envgym_trainer.config import TrainConfig
from envgym_trainer.run.display import clock


@dataclass(frozen=True, slots=True)
class StepCost:
    """Cost of one GRPO step."""

    sampling_seconds: float
    idle_share: float
    """Fraction of the sampling time in which the sampler waited for tools; NaN for a server."""
    training_seconds: float
    prompt_tokens: float
    """Tokens for each episode, as in the fields below."""
    sampled_tokens: float
    other_tokens: float
    """Tokens of observations and of the chat template."""
    computed_share: float
    """Tokens computed by the sampler as a fraction of all tokens; NaN for a server."""
    trained_share: float
    """Tokens computed by the learner as a fraction of all tokens."""


@dataclass(frozen=True, slots=True)
class CostReport:
    """Measured cost. Numbers are medians over the steps."""

    step: StepCost
    warmup_step_seconds: float
    eval_episode_seconds: float
    run_seconds: float
    """Estimate for the whole run: warm start, steps and evaluations."""
    peak_mb: float
    """Peak resident memory of this process, or peak memory that torch allocated on the GPU."""
    advice: tuple[str, ...] = field(default=())


def advice(config: TrainConfig, report: CostReport, *, evaluations: float) -> list[str]:
    """Return recommended settings with the measured reason, most urgent first.

    Args:
        config: Settings of the run.
        report: Measured cost.
        evaluations: Estimated seconds of all evaluations of the run.
    """
    step = report.step
    lines = list[str]()
    episodes = config.rollout.groups_per_step * config.rollout.group_size
    share = step.sampling_seconds / max(step.sampling_seconds + step.training_seconds, 1e-9)
    if step.idle_share > 0.1:
        few = config.rollout.max_concurrent_episodes < episodes
        knob = f"train.rollout.{'max_concurrent_episodes' if few else 'groups_per_step'}"
        lines.append(
            f"the sampler waits for tools {step.idle_share:.0%} of the time: raise {knob}, or see "
            "envgym sandbox bench"
        )
    if config.rollout.max_concurrent_episodes < episodes:
        lines.append(
            f"only {config.rollout.max_concurrent_episodes} of a step's {episodes} episodes run "
            f"at once: train.rollout.max_concurrent_episodes={episodes}"
        )
    if share > 0.5 and step.prompt_tokens > 4 * step.sampled_tokens:
        lines.append(
            f"prompts have {step.prompt_tokens:.0f} tokens for {step.sampled_tokens:.0f} sampled: "
            "prompt.rendering=text, fewer tools, or a larger train.rollout.group_size, which "
            "shares prompts"
        )
    if share < 0.5 and config.optimizer.updates_per_step > 1 and step.trained_share > 0.5:
        lines.append(
            f"training takes {1 - share:.0%} of a step: with a lower "
            "train.optimizer.updates_per_step a group's prompt is computed only once"
        )
    if evaluations > report.run_seconds / 3:
        lines.append(
            f"evaluations take {evaluations / report.run_seconds:.0%} of the run: lower "
            "train.evaluation.tasks or train.evaluation.base_tasks"
        )
    return lines


def to_table(report: CostReport, config: TrainConfig) -> Table:
    """Return the report as a table for the terminal."""
    step = report.step
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    sampled = step.sampled_tokens * config.rollout.groups_per_step * config.rollout.group_size

    def pace(seconds: float) -> str:
        return f"{sampled / seconds:,.0f} sampled tokens/s"

    tokens = (
        f"prompt {step.prompt_tokens:.0f}, sampled {step.sampled_tokens:.0f}, "
        f"tools and template {step.other_tokens:.0f}"
    )
    size = f"{config.rollout.groups_per_step} tasks x {config.rollout.group_size} episodes"
    table.add_row("a GRPO step", f"{step.sampling_seconds + step.training_seconds:.1f} s", size)
    table.add_row(
        "  sampling",
        f"{step.sampling_seconds:.1f} s",
        f"{pace(step.sampling_seconds)}; {_percent(step.idle_share)} idle",
    )
    table.add_row("  training", f"{step.training_seconds:.1f} s", pace(step.training_seconds))
    table.add_row(
        "an episode",
        f"{step.prompt_tokens + step.sampled_tokens + step.other_tokens:.0f} tokens",
        tokens,
    )
    table.add_row(
        "  computed",
        _percent(step.computed_share),
        f"by the sampler, {_percent(step.trained_share)} by the learner",
    )
    table.add_row("a held-out task", f"{report.eval_episode_seconds:.2f} s", "with many at once")
    if demos := min(config.warm_start.episodes, config.warm_start.episodes_per_step):
        table.add_row(
            "a supervised step", f"{report.warmup_step_seconds:.1f} s", f"{demos} demonstrations"
        )
    table.add_row(
        "the whole run",
        clock(report.run_seconds),
        f"estimated: warm start, {config.steps} steps, evaluations",
    )
    table.add_row("memory", f"{report.peak_mb / 1024:.1f} GiB", "peak")
    return table


def _percent(share: float) -> str:
    return "?" if share != share else f"{share:.0%}"
