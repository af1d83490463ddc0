"""Write the adapter of a finished run, with its model card."""

from __future__ import annotations

from collections.abc import Mapping

from envgym.evaluation.report import Outcome
from envgym.tools import to_openai
from envgym_trainer.config.evaluation import TRAINED
from envgym_trainer.inference.in_process.sampler_model import SamplerModel
from envgym_trainer.inference.policies.local import evaluation_sampling, rendering
from envgym_trainer.model.adapter_files import save_adapter
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.load import ResolvedModel, resolve
from envgym_trainer.model.serving_form import PLUGIN, loadable_name, serving_form
from envgym_trainer.run.model_card import CardFacts, ServingFacts, model_card
from envgym_trainer.run.provenance import versions
from envgym_trainer.training import best
from envgym_trainer.training.build import TrainingRun
from envgym_trainer.training.evaluation import adapter_of


def export_adapter(run: TrainingRun, outcomes: Mapping[str, Outcome]) -> None:
    """Write `adapter/` and its model card, unless `output.adapter` is `none`."""
    if run.config.output.adapter == "none":
        return
    base = resolve(run.config.model.name)
    facts = card_facts(run, base, list(outcomes.values()))
    run.engine.sleep()  # the verification needs memory
    with adapter_of(run, TRAINED):
        run.folder.save_adapter(
            lambda folder: save_adapter(
                run.model,
                run.tokenizer,
                run.chat,
                folder,
                base=SamplerModel(run.model).model,
                base_id=loadable_name(base),
                base_name=base.public_id,
                tools=to_openai(run.world.tools.values()),
                sampling=evaluation_sampling(run.config),
                prompt=rendering(run.spec),
                card=lambda gap: model_card(facts, logit_gap=gap),
            )
        )


def card_facts(run: TrainingRun, base: ResolvedModel, outcomes: list[Outcome]) -> CardFacts:
    """Return the content of the model card."""
    config = run.config
    spec = run.spec
    levels = f", levels {', '.join(config.tasks.levels)}" if config.tasks.levels else ""
    return CardFacts(
        name=run.folder.path.name,
        base_model=loadable_name(base),
        env_id=spec.id,
        env_description=spec.description.strip(),
        outcomes=outcomes,
        eval_tasks=f"held-out tasks of split {config.evaluation.split}{levels}",
        reward=spec.reward,
        recipe=recipe(run, base),
        seed=config.seed,
        rank=config.lora.rank,
        alpha=config.lora.alpha,
        versions=versions(),
        system=spec.prompt.system_message(spec.state.clock_start),
        serving=serving_facts(run.chat),
    )


def serving_facts(chat: Chat) -> ServingFacts:
    """Return the facts of the model card about serving."""
    form = serving_form(chat)
    return ServingFacts(
        rendering=form.rendering,
        dialect=form.dialect,
        parser=form.parser,
        plugin=PLUGIN if form.plugin else None,
        writes_history=form.writes_history,
    )


def recipe(run: TrainingRun, base: ResolvedModel) -> dict[str, str]:
    """Return the model card's lines about training, by name."""
    config = run.config
    rounded = (
        " (converted from a 4-bit GGUF: the weights differ slightly from the published ones)"
        if base.is_quantized
        else ""
    )
    return best.describe_adapter(run.progress, config) | {
        "warm start": f"{config.warm_start.episodes} oracle episodes, "
        f"learning rate {config.warm_start.learning_rate:g}",
        "GRPO": f"{config.steps} steps of {config.rollout.groups_per_step} tasks x "
        f"{config.rollout.group_size} episodes, "
        f"learning rate {config.optimizer.learning_rate:g}",
        "base weights": base.source + rounded,
    }
