"""LoRA options: servers' limits are reported at the start; sampling and training agree."""

import importlib.util

import pytest
import torch
from rich.console import Console

from envgym.errors import PrerequisiteError, SpecError
from envgym_trainer.config.model import LoraConfig
from envgym_trainer.inference.in_process.sampler_model import SamplerModel
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.update_settings import UpdateSettings
from envgym_trainer.model import quantize
from envgym_trainer.model.adapter_files import verify_adapter
from envgym_trainer.model.lora import attach_lora, lora_layers, lora_state, merge
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.launch import resolve, run_training
from tests.fakes.small_models import byte_tokenizer, small_llama
from tests.fakes.tiny_lora import random_samples

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
SMALL = [
    "train.model=tiny",
    "train.model.device=cpu",
    "train.warm_start.episodes=4",
    "train.warm_start.episodes_per_step=4",
    "train.steps=1",
    "train.rollout.groups_per_step=1",
    "train.rollout.group_size=4",
    "train.evaluation.tasks=2",
    "train.evaluation.base_tasks=0",
    "train.rollout.max_turn_tokens=8",
]
needs_bitsandbytes = pytest.mark.skipif(
    not importlib.util.find_spec("bitsandbytes"),
    reason="NOT TESTED, no bitsandbytes: pip install 'envgym[quantize]'",
)


def adapted(*, rank=8, alpha=16.0, base=None, **options):
    """Return a small model whose adapter, biases and whole modules are random, as if trained."""
    model = attach_lora(
        base or small_llama(byte_tokenizer()), rank=rank, alpha=alpha, seed=0, **options
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and "lora_A" not in name:
                weight.add_(torch.randn_like(weight) * 0.1)
    return model


def sampled_logits(model):
    replica = SamplerModel(model)
    replica.refresh(model)
    with torch.no_grad():
        return replica.model(IDS).logits


def gap_of_sampler(model):
    with torch.no_grad():
        return (model.eval()(IDS).logits - sampled_logits(model)).abs().max().item()


def run(folder, *settings):
    spec, config, _ = resolve("guess", [*SMALL, *settings])
    target = RunFolder.create(folder, "guess")
    return run_training(spec, config, target, console=Console(quiet=True)), target


REFUSED = {
    "train.lora.rank=12": r"vLLM does not support rank 12, .*; use 16",
    "train.lora.rank=600": "use 512",
    "train.lora.use_dora=true": "do not load DoRA",
    "train.lora.bias=all": "refuses trained biases",
    "train.lora.modules_to_save=[norm]": "refuses modules saved whole",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_what_servers_refuse_is_refused_before_anything_is_loaded_unless_nothing_is_exported(
    setting,
):
    with pytest.raises(SpecError, match=rf"{REFUSED[setting]}.*or set train\.output\.adapter=none"):
        resolve("guess", [setting])
    resolve("guess", [setting, "train.output.adapter=none"])


@pytest.mark.parametrize("rank", [1, 8, 16, 32, 64, 128, 256, 320, 512])
def test_every_rank_that_vllm_serves_is_taken(rank):
    assert LoraConfig(rank=rank).rank == rank


def test_biases_have_no_reference_to_measure_a_distance_to():
    with pytest.raises(SpecError, match=r"Use lora\.bias: none or algorithm\.kl\.coef: 0"):
        resolve(
            "guess",
            ["train.output.adapter=none", "train.lora.bias=all", "train.algorithm.kl.coef=0.1"],
        )


def test_rslora_scales_by_the_root_of_the_rank():
    model = adapted(rank=16, alpha=32.0, use_rslora=True)
    layer = next(iter(lora_layers(model).values()))
    a = layer.lora_A["default"].weight
    b = layer.lora_B["default"].weight
    # sqrt(16) = 4
    assert torch.allclose(merge(layer), layer.get_base_layer().weight + 32 / 4 * b @ a, atol=1e-5)


OPTIONS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "few targets": {"targets": ["q_proj", "down_proj"]},
    "odd rank": {"rank": 3},
    "norms whole": {"modules_to_save": ["norm"]},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_sampler_computes_what_the_trained_model_computes(options):
    model = adapted(**options)
    with torch.no_grad(), model.disable_adapter():
        base = model(IDS).logits
    assert gap_of_sampler(model) <= 1e-4
    assert (sampled_logits(model) - base).abs().max() > 1e-2


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_trained_biases_are_sampled_as_they_are_now(bias):
    model = adapted(base=small_llama(byte_tokenizer(), attention_bias=True), bias=bias)
    assert any(
        name.endswith("bias") and weight.requires_grad for name, weight in model.named_parameters()
    )
    assert gap_of_sampler(model) <= 1e-4


def first_update(dropout):
    """Run one update on samples with the model's own logprobs. Return metrics and model."""
    model = adapted(base=small_llama(byte_tokenizer()), dropout=dropout)
    learner = Learner(model)
    samples = [sample for sample in random_samples(0) if sample.num_actions]
    model.eval()
    honest = []
    with torch.no_grad():
        for sample in samples:
            logprobs = model(torch.tensor([sample.token_ids])).logits.log_softmax(-1)[0]
            old = [
                0.0,
                *(logprobs[t, token].item() for t, token in enumerate(sample.token_ids[1:])),
            ]
            honest.append(
                type(sample)(sample.token_ids, sample.loss_mask, tuple(old), sample.advantage)
            )
    return learner.update(honest, UpdateSettings(learning_rate=1e-4))


def test_only_without_dropout_the_first_update_has_the_probabilities_of_sampling():
    assert first_update(0.0)["sampling/sampling_logp_difference/max"] < 1e-4
    assert first_update(0.5)["sampling/sampling_logp_difference/max"] > 1e-2


def test_a_bfloat16_base_has_a_float32_adapter_and_optimiser():
    model = adapted(base=small_llama(byte_tokenizer()).to(torch.bfloat16))
    before = {
        name: weight.clone()
        for name, weight in model.named_parameters()
        if not weight.requires_grad
    }
    learner = Learner(model)
    learner.supervised_update(random_samples(0), UpdateSettings(learning_rate=1e-3))
    assert {weight.dtype for weight in learner.parameters.values()} == {torch.float32}
    moments = [
        value
        for state in learner.optimizer.state.values()
        for value in state.values()
        if value.dim()
    ]
    assert {value.dtype for value in moments} == {torch.float32}
    assert {tensor.dtype for tensor in lora_state(model).values()} == {torch.float32}
    assert all(
        torch.equal(weight, before[name])
        for name, weight in model.named_parameters()
        if name in before
    )
    assert {weight.dtype for weight in before.values()} == {torch.bfloat16}


def test_a_run_that_exports_nothing_trains_what_no_server_loads_and_writes_no_adapter(tmp_path):
    outcomes, folder = run(
        tmp_path, "train.output.adapter=none", "train.lora.use_dora=true", "train.lora.rank=3"
    )
    assert outcomes["trained"].total.n == 2
    assert not folder.adapter.exists()
    assert folder.latest_checkpoint()[0] == 2
    state = torch.load(folder.latest_checkpoint()[1] / "learner.pt", weights_only=True)["adapter"]
    assert any("lora_magnitude_vector" in name for name in state)


def test_four_bits_without_bitsandbytes_are_refused_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(quantize.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        PrerequisiteError,
        match=r"pip install 'envgym\[quantize\]', or set train\.model\.quantize=none",
    ):
        run(tmp_path, "train.model.quantize=4bit")


@needs_bitsandbytes
def test_over_four_bits_the_sampler_computes_what_the_trained_model_computes(tmp_path):
    from envgym_trainer.model.adapter_files import save_adapter
    from envgym_trainer.model.chat import Chat
    from envgym_trainer.model.load import load_model

    base, tokenizer = load_model("tiny", device="cpu", quantize="4bit")
    plain, _ = load_model("tiny", device="cpu")
    model = adapted(base=base)
    assert quantize.is_4bit(
        model.get_base_model().model.layers[0].mlp.up_proj.get_base_layer().weight
    )
    assert gap_of_sampler(model) <= 1e-4
    with torch.no_grad(), model.disable_adapter():
        assert (
            model(IDS).logits - plain(IDS).logits
        ).abs().max() > 1e-3  # four-bit weights differ from the base
    assert (
        verify_adapter(
            save_adapter(model, tokenizer, Chat(tokenizer), tmp_path, base_id="tiny", card=""),
            model,
        )
        <= 1e-4
    )


@needs_bitsandbytes
def test_a_run_over_four_bits_learns_and_leaves_an_ordinary_adapter(tmp_path):
    _, folder = run(tmp_path, "train.model.quantize=4bit")
    assert (folder.adapter / "adapter_model.safetensors").is_file()
    lines = folder.metrics()
    mismatch = [
        line["sampling/sampling_logp_difference/max"]
        for line in lines
        if "sampling/sampling_logp_difference/max" in line
    ]
    assert all(value < 1e-3 for value in mismatch)
    assert next(line for line in lines if line["phase"] == "warmup")["grad_norm"] > 0
