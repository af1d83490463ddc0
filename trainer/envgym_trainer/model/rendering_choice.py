"""Resolve `prompt.rendering: auto` for a model, and build the `Chat` of an environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from envgym.dialects import dialect_for_template, dialect_names
from envgym.errors import UsageError
from envgym.spec.environment import EnvSpec
from envgym.spec.prompt import PromptSpec
from envgym_trainer.model.chat import Chat, RenderingName, TemplateName
from envgym_trainer.model.load import load_tokenizer


@dataclass(frozen=True, slots=True)
class RenderingChoice:
    """Rendering for a model, and the reason."""

    rendering: RenderingName
    dialects: tuple[str, ...]
    why: str


def choose_rendering(tokenizer: Any, prompt: PromptSpec) -> RenderingChoice:
    """Return the rendering of a prompt for a model.

    With `auto`, it is `native` if the model's chat template renders tools, calls and results, and
    a dialect reads its calls. This dialect then comes first.

    Args:
        tokenizer: Tokenizer of the model.
        prompt: Settings of the environment.
    """
    if prompt.rendering != "auto":
        return RenderingChoice(prompt.rendering, prompt.dialects, "set by prompt.rendering")
    template = tokenizer.chat_template
    if not isinstance(template, str) or not template:
        return RenderingChoice("text", prompt.dialects, "the tokenizer has no chat template")
    family = dialect_for_template(template)
    names = [*([family] if family else []), *prompt.dialects, *dialect_names()]
    problem = ""
    for name in dict.fromkeys(names):
        dialects = tuple(dict.fromkeys([name, *prompt.dialects]))
        try:
            Chat(tokenizer, rendering="native", dialects=[name])
        except UsageError as error:
            problem = str(error)
            if "no dialect of" not in problem:
                break
            problem = "no dialect reads the tool calls that the chat template writes"
        else:
            why = f"the chat template renders tools, and {name} reads its calls"
            return RenderingChoice("native", dialects, why)
    return RenderingChoice("text", prompt.dialects, problem.partition(", so prompt.")[0])


def with_rendering(spec: EnvSpec, model: str) -> EnvSpec:
    """Return the environment with `prompt.rendering: auto` resolved for a model.

    Without tools it is `text`, since there is nothing for the template to render.

    Args:
        spec: Definition of an environment.
        model: Name of the model; see `load_model`.
    """
    if spec.prompt.rendering != "auto":
        return spec
    if not spec.tools:
        choice = RenderingChoice("text", spec.prompt.dialects, "the environment has no tools")
    else:
        choice = choose_rendering(load_tokenizer(model), spec.prompt)
    chosen = {"rendering": choice.rendering, "dialects": choice.dialects}
    return spec.model_copy(update={"prompt": spec.prompt.model_copy(update=chosen)})


def open_chat(
    spec: EnvSpec, tokenizer: Any, *, model: Any = None, template: TemplateName = "auto"
) -> Chat:
    """Return the converter between messages and token ids for an environment.

    Args:
        spec: Definition of the environment. Without a resolved rendering, it is `text`.
        tokenizer: Tokenizer of the model.
        model: Model, for the ids that end a turn.
        template: Template of `text` rendering.
    """
    prompt = spec.prompt
    return Chat(
        tokenizer,
        template,
        model=model,
        rendering="native" if prompt.rendering == "native" else "text",
        dialects=prompt.dialects,
        keep_reasoning=prompt.keep_reasoning,
        variables=prompt.chat_template_kwargs,
        clock=spec.state.clock_start,
    )


def chat_of_model(tokenizer: Any, model: Any) -> Chat:
    """Return the converter for a model without an environment, as a server of it needs."""
    choice = choose_rendering(tokenizer, PromptSpec())
    return Chat(tokenizer, model=model, rendering=choice.rendering, dialects=choice.dialects)
