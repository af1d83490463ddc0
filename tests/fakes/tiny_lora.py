"""A two-layer random Llama with a LoRA adapter, and random episodes with shared prefixes."""

import dataclasses
import random
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from envgym_trainer.batch import Sample
from envgym_trainer.learner.update_settings import UpdateSettings

VOCAB = 23
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tiny_model(*, dtype: torch.dtype = torch.float64, seed: int = 0) -> PeftModel:
    """Return a model whose adapter has an effect: lora_B is random instead of zero."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    model = get_peft_model(
        LlamaForCausalLM(config), LoraConfig(r=4, lora_alpha=8, target_modules=LINEARS)
    )
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    if dtype == torch.float64:
        _norm_in_full_precision(model)
    return model.to(dtype).eval()  # type: ignore[return-value]


def _norm_in_full_precision(model: torch.nn.Module) -> None:
    """Replace Llama's RMSNorm, which always computes in float32, by torch's."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, LlamaRMSNorm):
                setattr(
                    module, name, torch.nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon)
                )


def split_options(options: dict[str, Any]) -> tuple[dict[str, Any], UpdateSettings]:
    """Return the arguments of a learner and the settings of its updates."""
    names = {field.name for field in dataclasses.fields(UpdateSettings)}
    settings = {name: value for name, value in options.items() if name in names}
    rest = {name: value for name, value in options.items() if name not in names}
    return rest, UpdateSettings(**settings)


def random_samples(seed: int, *, groups: int = 3, group_size: int = 4) -> list[Sample]:
    """Return random episodes with a shared system prompt and one task prompt for each group.

    Turns are drawn from few ids, so that they collide.
    """
    rng = random.Random(seed)
    ids = lambda low, high: [rng.randrange(1, VOCAB) for _ in range(rng.randint(low, high))]
    system = ids(3, 6)
    samples = []
    for _ in range(groups):
        task = ids(1, 4)
        answers = [ids(1, 3) for _ in range(2)]
        for _ in range(group_size):
            tokens = [*system, *task]
            mask = [False] * (len(system) + len(task))
            for _ in range(rng.randint(1, 3)):
                said = rng.choice([*answers, ids(1, 3)])
                heard = ids(1, 1)
                tokens += [*said, *heard]
                mask += [True] * len(said) + [False] * len(heard)
            old = tuple(rng.uniform(-4, -1) if sampled else 0.0 for sampled in mask)
            samples.append(
                Sample(
                    tuple(tokens),
                    tuple(mask),
                    old,
                    advantage=rng.uniform(-1, 1),
                    weight=rng.choice([1.0, 0.5]),
                )
            )
    rng.shuffle(samples)
    return samples
