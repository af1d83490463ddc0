"""Sampling and gradients on a GPU: logprobs match the model, and the tree matches padded rows.

A CPU runs the same lines.
"""

import pytest
import torch

from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.update_settings import UpdateSettings
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.lora import attach_lora
from tests.fakes.dialogues import talk, together
from tests.fakes.small_models import byte_tokenizer, small_llama
from tests.fakes.tiny_lora import random_samples

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="NOT TESTED, no GPU that torch can use"
)
DEVICES = [
    ("cpu", torch.float32),
    *(
        pytest.param("cuda", dtype, marks=[pytest.mark.gpu, needs_gpu])
        for dtype in (torch.float32, torch.bfloat16)
    ),
]
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.15}


def adapted(device, dtype):
    model = attach_lora(small_llama(byte_tokenizer()).to(device, dtype), rank=4, alpha=8.0, seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            value.data.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return model


@pytest.mark.parametrize(("device", "dtype"), DEVICES)
def test_sampled_logprobs_are_those_of_a_fresh_forward(device, dtype):
    model = adapted(device, dtype)
    with InProcessEngine(model, Chat(byte_tokenizer(), model=model), max_context=400) as engine:
        engine.load_adapter(model)
        traces = [
            dialogue.trace()
            for dialogue in together(
                lambda seed: talk(engine.policy(max_new_tokens=12), seed=seed), 6
            )
        ]
    for trace in traces:
        ids = torch.tensor([trace.token_ids], device=device)
        with torch.no_grad():
            logprobs = (
                model(input_ids=ids[:, :-1])
                .logits[0]
                .float()
                .log_softmax(-1)
                .gather(1, ids[0, 1:, None])[:, 0]
                .cpu()
            )
        mask = torch.tensor(trace.loss_mask)[1:]
        torch.testing.assert_close(
            torch.tensor(trace.logprobs)[1:][mask], logprobs[mask], rtol=0, atol=TOLERANCE[dtype]
        )


@pytest.mark.parametrize(("device", "dtype"), DEVICES)
def test_the_trees_update_is_that_of_padded_rows(device, dtype):
    norms = [
        Learner(adapted(device, dtype), layout=layout).update(random_samples(0), UpdateSettings())[
            "grad_norm"
        ]
        for layout in ("tree", "flat")
    ]
    assert norms[0] > 0
    assert norms[0] == pytest.approx(norms[1], rel=TOLERANCE[dtype])
