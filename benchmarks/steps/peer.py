"""One step of TRL's GRPOTrainer.  python -m steps.peer WORK_JSON MODEL THREADS [batching]

Set up as a user would, except for settings that make the work equal: float32 on a CPU (TRL's
default bfloat16 is slower there), no gradient checkpointing, a limit for each turn through
`generation_kwargs`, and every response parsed as a tool call.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from typing import Any

from steps.work import Clock, Measured, Work, peak_mb, words

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}

import torch
import transformers
import trl
import trl.trainer.grpo_trainer as grpo_trainer
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen2_5_chat_template


def main(work: Work, model: str, threads: int, *, batching: bool) -> Measured:
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    # TRL refuses models whose chat template has no tools.
    tokenizer.chat_template = qwen2_5_chat_template
    texts = Texts(work, tokenizer)
    grpo_trainer.parse_response = read_as_call  # type: ignore[attr-defined]
    out = Measured("TRL, continuous batching" if batching else "TRL")
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=work.device == "cpu",
            bf16=work.dtype == "bfloat16",
            gradient_checkpointing=False,
            max_steps=1,
            per_device_train_batch_size=work.micro_batch,
            gradient_accumulation_steps=work.episodes // work.micro_batch,
            num_generations=work.group,
            max_completion_length=work.turns * (work.turn_tokens + work.tool_tokens) + 64,
            max_tool_calling_iterations=work.turns - 1,
            learning_rate=1e-5,
            beta=0.0,
            temperature=1.0,
            generation_kwargs={
                "max_new_tokens": work.turn_tokens,
                "min_new_tokens": work.turn_tokens,
            },
            use_transformers_continuous_batching=batching,
        )
        trainer = timed(GRPOTrainer, out)(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, work.dtype)),
            args=config,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(
                [
                    {"prompt": [{"role": "user", "content": texts.prompt()}]}
                    for _ in range(work.tasks)
                ]
            ),
            reward_funcs=lambda completion_ids, **_: [random.random() for _ in completion_ids],
            environment_factory=texts.environment(),
            callbacks=[StepClock(out)],
            peft_config=LoraConfig(
                r=work.rank,
                lora_alpha=2 * work.rank,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
        )
        texts.fit_answers(trainer)
        trainer.train()
    out.peak_mb = peak_mb(work.device)
    out.versions = {
        "trl": trl.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return out


class Texts:
    """Prompts and tool results that have the wanted lengths after the chat template is applied."""

    def __init__(self, work: Work, tokenizer: Any):
        self.work, self.rng = work, random.Random(0)
        empty = [{"role": "user", "content": ""}]
        tools = [self.environment()().look_up]
        bare = tokenizer.apply_chat_template(
            empty, tools=tools, add_generation_prompt=True, return_dict=False
        )
        self.prompt_words = work.prompt_tokens - len(bare)
        self.answer_words = 0

    def fit_answers(self, trainer: Any) -> None:
        """Set the length of tool results. TRL reports the tokens that it adds to them."""
        bare = trainer._get_tool_suffix_ids([{"role": "tool", "name": "look_up", "content": ""}])
        self.answer_words = self.work.tool_tokens - len(bare)

    def prompt(self) -> str:
        return words(self.prompt_words, self.rng)

    def environment(self) -> type:
        texts = self

        class Store:
            """One tool with results of fixed length and a fixed delay."""

            def reset(self, **_: Any) -> None:
                pass

            def look_up(self, key: str) -> str:
                """
                Look a key up.

                Args:
                    key: what to look up.

                Returns:
                    What is filed under the key.
                """
                time.sleep(texts.work.tool_seconds)
                return words(texts.answer_words, texts.rng)

        return Store


def read_as_call(tokenizer: Any, ids: Any, **_: Any) -> dict[str, Any]:
    """Parse any response as a call of the tool. The limit of calls ends the episode."""
    call = {"type": "function", "function": {"name": "look_up", "arguments": {"key": "k"}}}
    return {
        "role": "assistant",
        "content": tokenizer.decode(ids, skip_special_tokens=True),
        "tool_calls": [call],
    }


def timed(base: type, out: Measured) -> type:
    """Return a subclass of the trainer that times its sampling."""

    class Timed(base):
        def _generate(self, prompts: Any) -> Any:
            clock = Clock()
            made = super()._generate(prompts)
            out.sampling_seconds, out.sampling_cpu_seconds = clock.read()
            prompt_ids, completion_ids, mask = made[:3]
            out.prompt_tokens = sum(map(len, prompt_ids)) / len(prompt_ids)
            out.sampled_tokens = sum(map(sum, mask))
            out.all_tokens = sum(map(len, prompt_ids)) + sum(map(len, completion_ids))
            return made

    return Timed


class StepClock(TrainerCallback):
    """Timer of the single step, from its start to the optimizer's step."""

    def __init__(self, out: Measured):
        self.out = out

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.clock = Clock()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.out.seconds, self.out.cpu_seconds = self.clock.read()


if __name__ == "__main__":
    # TRL prints its log
    real = sys.stdout
    sys.stdout = sys.stderr
    measured = main(
        Work(**json.loads(sys.argv[1])),
        sys.argv[2],
        int(sys.argv[3]),
        batching="batching" in sys.argv[4:],
    )
    print(measured.to_json(), file=real)
