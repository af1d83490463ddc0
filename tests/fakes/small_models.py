"""A byte-level tokenizer and a two-layer random Llama, for the sampler's tests."""

from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def byte_tokenizer(
    special: tuple[str, ...] = CHATML, *, eos: str = "<|im_end|>", template: str | None = None
) -> Any:
    """Return a tokenizer with one id for each byte, after the special tokens.

    `pad` is the end-of-sequence token, as in many real tokenizers.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(
            vocab={char: index for index, char in enumerate([*special, *alphabet])}, merges=[]
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos, pad_token=eos, chat_template=template
    )


def small_llama(tokenizer: Any, *, seed: int = 0, **config: Any) -> Any:
    """Return a model with two layers and grouped heads, whose EOS is the end token.

    Its weights are wide enough that logits differ clearly.
    """
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.25,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    return LlamaForCausalLM(LlamaConfig(**(sizes | config))).eval().requires_grad_(False)
