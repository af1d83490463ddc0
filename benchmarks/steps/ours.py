"""envgym's side: the very trainer of `envgym train`, one step.  python -m steps.ours WORK_JSON MODEL THREADS"""

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
from envgym_trainer.run.logger import Monitor
from envgym_trainer.training.launch import resolve
from envgym_trainer.training.loop import Trainer
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
            f"train.device={work.device}",
            f"train.dtype={work.dtype}",
            "train.algorithm=grpo",
            "train.preflight=off",
            "train.steps=1",
            f"train.tasks_per_step={work.tasks}",
            f"train.group_size={work.group}",
            "train.learning_rate=1e-5",
            f"train.max_new_tokens={work.turn_tokens}",
            f"train.max_context={context}",
            f"train.lora.rank={work.rank}",
            f"train.lora.alpha={2 * work.rank}",
            "train.eval.base_tasks=0",
        ]
        spec, config, _ = resolve(str(env), settings)
        folder = RunFolder.create(place, "run")
        console = Console(file=nowhere)
        with Monitor(folder) as monitor, Display({"grpo": 1}, console=console) as display:
            trainer = Trainer(spec, config, folder, monitor, display)
            try:
                return step(trainer, work)
            finally:
                trainer.close()


def step(trainer: Trainer, work: Work) -> Measured:
    force(trainer, work)
    clock = Clock()
    played = trainer.sample(1)
    sampling = clock.read()
    metrics = trainer.learn(played.comparable)
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
    """No token ends a turn, and texts have the lengths that are asked for once the chat's own tokens are added."""
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
