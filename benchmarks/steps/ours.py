"""One step of envgym's trainer.  python -m steps.ours WORK_JSON MODEL THREADS"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from rich.console import Console

import envgym
from envgym_trainer.run.display import Display
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.logger import RunLogger
from envgym_trainer.training.launch import resolve
from envgym_trainer.training.loop import Trainer
from envgym_trainer.training.update import update_policy
from steps.work import Clock, Measured, Work, peak_mb

ENVIRONMENT = """
id: bench/forced-v0
gym: steps.work:Forced-v0
tasks: {{val: 2, test: 2}}
episode: {{max_turns: {turns}}}
"""


def main(work: Work, model: str, threads: int) -> Measured:
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as place, open("/dev/null", "w") as nowhere:
        env = Path(place) / "forced.yaml"
        env.write_text(ENVIRONMENT.format(turns=work.turns))
        context = work.prompt_tokens + work.turns * (work.turn_tokens + work.tool_tokens) + 64
        settings = [
            f"train.model={model}",
            f"train.model.device={work.device}",
            f"train.model.dtype={work.dtype}",
            "train.algorithm=grpo",
            "train.checks.preflight=off",
            "train.steps=1",
            f"train.rollout.groups_per_step={work.tasks}",
            f"train.rollout.group_size={work.group}",
            "train.optimizer.learning_rate=1e-5",
            f"train.rollout.max_turn_tokens={work.turn_tokens}",
            f"train.rollout.max_context_tokens={context}",
            f"train.lora.rank={work.rank}",
            f"train.lora.alpha={2 * work.rank}",
            "train.evaluation.base_tasks=0",
        ]
        spec, config, _ = resolve(str(env), settings)
        folder = RunFolder.create(place, "run")
        console = Console(file=nowhere)
        with RunLogger(folder) as monitor, Display({"grpo": 1}, console=console) as display:
            trainer = Trainer(spec, config, folder, monitor, display)
            try:
                return step(trainer, work)
            finally:
                trainer.close()


def step(trainer: Trainer, work: Work) -> Measured:
    force(trainer, work)
    clock = Clock()
    played = trainer.collect_rollouts(1)
    sampling = clock.read()
    metrics = update_policy(trainer, played.trainable_groups)
    total = clock.read()
    assert metrics["grad_norm"] > 0
    traces = [episode.tokens for episode in played.episodes]
    lengths = [trace.loss_mask.index(True) for trace in traces]
    return Measured(
        "envgym",
        *total,
        *sampling,
        prompt_tokens=sum(lengths) / len(lengths),
        peak_mb=peak_mb(work.device),
        sampled_tokens=sum(sum(trace.loss_mask) for trace in traces),
        all_tokens=sum(len(trace.token_ids) for trace in traces),
        versions={
            "envgym": envgym.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    )


def force(trainer: Trainer, work: Work) -> None:
    """Force turns and texts to the wanted lengths, by removing stop tokens and trimming texts."""
    chat = trainer.chat
    chat.stop_ids = frozenset()
    from envgym.messages import Message

    bare_prompt = len(chat.open([Message("user", "")]))
    bare_answer = len(chat.observe([Message("user", "")], closed=False))
    make = trainer.world.env

    def env(**options):
        made = make(**options)
        inner = made.unwrapped
        inner.turns = work.turns
        inner.tool_seconds = work.tool_seconds
        inner.prompt_words = work.prompt_tokens - bare_prompt
        inner.answer_words = work.tool_tokens - bare_answer
        return made

    trainer.world.env = env


if __name__ == "__main__":
    print(main(Work(**json.loads(sys.argv[1])), sys.argv[2], int(sys.argv[3])).to_json())
