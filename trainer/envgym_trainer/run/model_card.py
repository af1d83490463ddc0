"""Model card of an adapter: origin, results with intervals, reward, recipe, loading and serving.

A pure function of facts; `export.py` writes the file. The card states measured facts only.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from envgym.evaluation.report import Outcome, to_markdown
from envgym.secrets import redact
from envgym.spec.reward import PartSpec, Schedule
from envgym_trainer.config.server_limits import max_lora_rank

PER = {
    "episode": "once, at the end",
    "turn": "at each turn",
    "call": "at each tool call",
    "potential": "at each turn, the change of the value",
}
"""Per-turn rule of a reward part, in words."""


@dataclass(frozen=True, slots=True)
class ServingFacts:
    """How a server renders prompts and parses calls for the adapter."""

    rendering: str
    """Rendering that was trained: `native` or `text`."""
    dialect: str
    """Syntax of tool calls."""
    parser: str | None = None
    """Name of vLLM's parser for it. None: vLLM has none."""
    plugin: str | None = None
    """File beside the adapter that defines the parser."""
    writes_history: bool = True
    """Whether the chat template writes earlier tool calls of a client."""


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Facts of a model card."""

    name: str
    """Name of the adapter, such as `guess`, under which it is served."""
    base_model: str
    """Public id of the base model, such as HuggingFaceTB/SmolLM2-135M-Instruct."""
    env_id: str
    env_description: str
    outcomes: Sequence[Outcome]
    """Held-out results in order: base model, warm start, trained. May be empty."""
    eval_tasks: str
    """Evaluation tasks, such as `200 tasks of split test, levels L0, L1, greedy`."""
    reward: Mapping[str, PartSpec]
    """Part -> its rule. A weight of 0 marks a metric that is only reported."""
    recipe: Mapping[str, object]
    """Training steps in their order: `warm start` -> `320 oracle episodes, learning rate 0.003`."""
    rank: int
    alpha: float
    versions: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    base_license: str | None = None
    """SPDX id of the base model's licence, which the adapter inherits. None: unknown."""
    tags: Sequence[str] = ()
    system: str = ""
    """System message that was trained, without tools. Clients have to send it."""
    serving: ServingFacts | None = None


def model_card(facts: CardFacts, *, logit_gap: float | None = None) -> str:
    """Return the text of the model card: YAML front matter, then sections in Markdown.

    Args:
        facts: Content of the card.
        logit_gap: Largest difference of a logit between the trained model and the written adapter,
            if it was measured.
    """
    parts = [
        _front_matter(facts),
        f"# {facts.name}",
        f"A LoRA adapter for `{facts.base_model}`, trained with GRPO in the environment "
        f"`{facts.env_id}`: {facts.env_description.strip()}",
        _results(facts),
        _reward(facts.reward),
        f"## How it was made\n\n{_table(facts.recipe)}\n\n"
        f"LoRA rank {facts.rank}, alpha {facts.alpha:g}, seed {facts.seed}.{_verified(logit_gap)}",
        _use(facts),
        f"## Versions\n\n{_table(facts.versions)}" if facts.versions else "",
        "## Limits\n\nMeasured on tasks of this environment and on nothing else; "
        "other abilities of the base model were not.",
    ]
    return redact("\n\n".join(part for part in parts if part)) + "\n"


def serve_command(
    base_model: str,
    name: str,
    path: str,
    *,
    rank: int,
    parser: str | None = None,
    plugin: str | None = None,
) -> str:
    """Return the shell command that serves the adapter at `path` under `name` with vLLM.

    Args:
        base_model: Id or folder of the base model.
        name: Name of the adapter on the server.
        path: Folder of the adapter.
        rank: Rank of the adapter.
        parser: Name of the parser of tool calls. None: the server parses no calls.
        plugin: File in the adapter's folder that defines the parser.

    Raises:
        ValueError: If vLLM does not support the rank.
    """
    words = ["vllm", "serve", base_model, "--enable-lora"]
    words += ["--max-lora-rank", str(max_lora_rank(rank)), "--lora-modules", f"{name}={path}"]
    words += ["--chat-template", str(Path(path, "chat_template.jinja"))]
    if parser:
        words += ["--enable-auto-tool-choice", "--tool-call-parser", parser]
    if plugin:
        words += ["--tool-parser-plugin", str(Path(path, plugin))]
    return shlex.join(words)


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
    where = f"On {facts.eval_tasks}, none of them seen in training."
    return f"## Results\n\n{where}\n\n{to_markdown(facts.outcomes)}"


def _reward(reward: Mapping[str, PartSpec]) -> str:
    if not reward:
        return ""
    head = ("part", "weight", "range", "clip", "paid")
    rows = [(name, *_rule(part)) for name, part in reward.items()]
    return (
        "## Reward\n\nA weighted sum of named parts. *Range* holds the values that a raw score of "
        "0 and of 1 are mapped to; other scores follow the same line, within *clip* if there is "
        "one.\n\n" + _columns([head, ("---",) * len(head), *rows])
    )


def _rule(part: PartSpec) -> tuple[str, ...]:
    """Return weight, range, clip and per-turn rule of a part, in words."""
    low, high = (_schedule(bound) for bound in part.range)
    paid = PER[part.per]
    if part.gate:
        paid += f", only if {part.gate.on} is at least {part.gate.at_least:g}"
    if part.scale == "running":
        paid += "; divided by its running standard deviation during training"
    return (
        _schedule(part.weight) if part.weight else "0 (reported, not rewarded)",
        f"{low} to {high}",
        f"{part.clip[0]:g} to {part.clip[1]:g}" if part.clip else "none",
        paid,
    )


def _schedule(schedule: Schedule) -> str:
    if not isinstance(schedule, Mapping):
        return f"{schedule:g}"
    return ", ".join(f"{value:g} at step {step}" for step, value in sorted(schedule.items()))


def _use(facts: CardFacts) -> str:
    form = facts.serving or ServingFacts("text", "")
    command = serve_command(
        facts.base_model,
        facts.name,
        ".",
        rank=facts.rank,
        parser=form.parser,
        plugin=form.plugin,
    )
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
```{_clients(facts)}"""


def _clients(facts: CardFacts) -> str:
    """Return the part for clients of a server: system message and limits of the rendering."""
    if (form := facts.serving) is None:
        return ""
    parts = [
        "Clients send the tools as `tools=`, earlier calls as `tool_calls`, and this system "
        f"message:\n\n{_block(facts.system)}"
    ]
    if form.parser is None:
        parts.append(
            f"vLLM has no parser for calls in the form `{form.dialect}`: they arrive as text. Use "
            "`envgym serve`, which parses them."
        )
    if not form.writes_history:
        parts.append(
            f"The chat template cannot write earlier calls in the form `{form.dialect}`. Send them "
            "as text of the assistant's message."
        )
    return "\n\n" + "\n\n".join(parts)


def _block(text: str) -> str:
    """Return a text as a Markdown block that shows it unchanged."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _verified(logit_gap: float | None) -> str:
    if logit_gap is None:
        return ""
    return (
        "\n\nThe adapter was loaded again with PEFT and compared with the trained model: the "
        f"largest difference of a logit is {logit_gap:.2g}."
    )


def _table(rows: Mapping[str, object]) -> str:
    return _columns([("", ""), ("---", "---"), *rows.items()])


def _columns(lines: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; a vertical bar inside of a cell is escaped."""
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in line)} |" for line in lines
    )
