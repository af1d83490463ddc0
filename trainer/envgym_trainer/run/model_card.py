"""The model card beside an adapter: what it is, what it learned and how surely, how to load and serve it.

A pure function of facts; `export.py` writes the file. Left out: anything that nobody measured.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from envgym.evaluation.report import Outcome, to_markdown

SERVED_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM takes for --max-lora-rank (1 is left out: its default is 16, and a larger limit costs little)."""


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card is written from."""

    name: str
    """Of the adapter, such as `guess`; the name under which it is served."""
    base_model: str
    """Public id of the base model, such as HuggingFaceTB/SmolLM2-135M-Instruct."""
    env_id: str
    env_description: str
    outcomes: Sequence[Outcome]
    """Held-out results in order: base model, warm start, trained. May be empty."""
    eval_tasks: str
    """What they were measured on, such as `200 tasks of split test, levels L0, L1, greedy`."""
    reward: Mapping[str, float | Mapping[int, float]]
    """Part -> weight; 0 is a metric that is only reported."""
    recipe: Mapping[str, object]
    """What was done, in the order to be read: `warm start` -> `320 oracle episodes, learning rate 0.003`, ..."""
    rank: int
    alpha: float
    versions: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    base_license: str | None = None
    """SPDX id of the base model's licence where it is known; the adapter inherits it."""
    tags: Sequence[str] = ()


def model_card(facts: CardFacts, *, logit_gap: float | None = None) -> str:
    """Return the text of README.md: YAML front matter, then sections.

    Args:
        facts: Content of the card.
        logit_gap: Largest difference of a logit between the trained model and the written adapter,
            if it was measured.
    """
    parts = [
        _front_matter(facts),
        f"# {facts.name}",
        f"A LoRA adapter for `{facts.base_model}`, trained with GRPO in the environment `{facts.env_id}`: "
        f"{facts.env_description.strip()}",
        _results(facts),
        _reward(facts.reward),
        f"## How it was made\n\n{_table(facts.recipe)}\n\nLoRA rank {facts.rank}, alpha {facts.alpha:g}, seed {facts.seed}."
        f"{_verified(logit_gap)}",
        _use(facts),
        f"## Versions\n\n{_table(facts.versions)}" if facts.versions else "",
        "## Limits\n\nMeasured on tasks of this environment and on nothing else; other abilities of the base model were not.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def serving_rank(rank: int) -> int:
    """The smallest `--max-lora-rank` that admits this adapter. Raises ValueError beyond 512, which vLLM cannot serve."""
    found = next((limit for limit in SERVED_RANKS if limit >= rank), None)
    if found is None:
        raise ValueError(
            f"LoRA rank {rank}: vLLM serves at most {SERVED_RANKS[-1]}. Train with train.lora.rank={SERVED_RANKS[-1]} or less."
        )
    return found


def serve_command(base_model: str, name: str, path: str, *, rank: int) -> str:
    """The command that serves the adapter under `name`, for a shell."""
    module = shlex.quote(f"{name}={path}")
    return f"vllm serve {shlex.quote(base_model)} --enable-lora --max-lora-rank {serving_rank(rank)} --lora-modules {module}"


def _front_matter(facts: CardFacts) -> str:
    plain = {
        "library_name": "peft",
        "base_model": facts.base_model,
        "pipeline_tag": "text-generation",
        "tags": list(
            dict.fromkeys(
                ["lora", "grpo", "envgym", "reinforcement-learning", "tool-use", *facts.tags]
            )
        ),
    }
    if facts.base_license:
        plain["license"] = facts.base_license
    return "---\n" + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True) + "---"


def _results(facts: CardFacts) -> str:
    if not facts.outcomes:
        return ""
    return f"## Results\n\nOn {facts.eval_tasks}, none of them seen in training.\n\n{to_markdown(facts.outcomes)}"


def _weight(schedule: float | Mapping[int, float]) -> str:
    if not isinstance(schedule, Mapping):
        return f"{schedule:g}"
    return ", ".join(f"{weight:g} at step {step}" for step, weight in sorted(schedule.items()))


def _reward(reward: Mapping[str, float | Mapping[int, float]]) -> str:
    rows = {
        name: _weight(weight) if weight else "0 (reported, not rewarded)"
        for name, weight in reward.items()
    }
    return (
        f"## Reward\n\nA sum of named parts, each between 0 and 1, times its weight.\n\n{_table(rows, head=('part', 'weight'))}"
        if rows
        else ""
    )


def _use(facts: CardFacts) -> str:
    command = serve_command(facts.base_model, facts.name, ".", rank=facts.rank)
    return f"""## How to use it

With PEFT, from this folder (tokenizer and chat template lie beside the adapter):

```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
```

Served with vLLM, as the model `{facts.name}`:

```bash
{command}
```"""


def _verified(logit_gap: float | None) -> str:
    if logit_gap is None:
        return ""
    return (
        "\n\nThe adapter was loaded again with PEFT and compared with the trained model: the "
        f"largest difference of a logit is {logit_gap:.2g}."
    )


def _table(rows: Mapping[str, object], *, head: tuple[str, str] = ("", "")) -> str:
    lines = [head, ("---", "---"), *rows.items()]
    return "\n".join(f"| {name} | {str(value).replace('|', '&#124;')} |" for name, value in lines)
