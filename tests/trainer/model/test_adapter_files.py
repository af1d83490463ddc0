"""The adapter's folder: plain PEFT loads it and computes the trainer's logits."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoTokenizer

from envgym.errors import UsageError
from envgym.messages import Message
from envgym.policies import SamplingOverrides
from envgym.spec.environment import EnvSpec
from envgym_trainer.inference.in_process.sampler_model import SamplerModel
from envgym_trainer.inference.policies.local import base_of, open_adapter, open_model
from envgym_trainer.model import adapter_files
from envgym_trainer.model.adapter_files import save_adapter, verify_adapter, verify_files
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.lora import attach_lora, lora_state, merged_weights
from tests.fakes.small_models import byte_tokenizer, small_llama

SYSTEM = Message("system", "Be brief.")
USER = Message("user", "Hello")
SAMPLING = {"temperature": 0.0, "max_turn_tokens": 12, "max_context_tokens": 512}


class WORLD:
    """World of a YAML file whose training settings differ from `SAMPLING`."""

    spec = EnvSpec.model_validate(
        {
            "id": "test/none-v0",
            "gym": "CartPole-v1",
            "train": {
                "model": {"device": "cpu"},
                "rollout": {"max_turn_tokens": 7, "max_context_tokens": 600},
                "evaluation": {"temperature": 0.5},
                "profiles": {"cpu": {"rollout": {"max_turn_tokens": 9}}},
            },
        }
    )


def test_a_policy_plays_with_the_manifests_settings_else_those_of_the_yaml(trained, tmp_path):
    model, tokenizer = trained
    base = str(tmp_path / "base")
    small_llama(tokenizer).save_pretrained(base)
    tokenizer.save_pretrained(base)
    folder = str(save(trained, tmp_path / "adapter", base_id=base))

    def settings(open_policy, name, **overrides):
        policy = open_policy(name, WORLD, sampling=SamplingOverrides(**overrides))
        policy.engine.close()
        sampling = policy.sampling
        return sampling.temperature, sampling.max_new_tokens, policy.engine.max_context

    assert settings(open_adapter, folder) == (0.0, 12, 512)
    assert settings(open_adapter, folder, temperature=0.7) == (0.7, 12, 512)
    assert settings(open_model, base) == (0.5, 9, 600)
    assert settings(open_model, base, max_turn_tokens=5, max_context_tokens=99) == (0.5, 5, 99)
    (tmp_path / "adapter" / "manifest.json").unlink()
    assert settings(open_adapter, folder) == (0.5, 9, 600)


@pytest.fixture
def trained():
    """Return an adapted model with a random adapter, and its tokenizer."""
    tokenizer = byte_tokenizer()
    return randomise(attach_lora(small_llama(tokenizer), rank=8, alpha=16, seed=0)), tokenizer


def randomise(adapted):
    torch.manual_seed(1)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return adapted


def save(trained, folder, *, base_id: str = "org/base"):
    model, tokenizer = trained
    return save_adapter(
        model,
        tokenizer,
        Chat(tokenizer),
        folder,
        base=SamplerModel(model).model,
        base_id=base_id,
        sampling=SAMPLING,
        card=lambda gap: f"# What it learned\n{gap}",
    )


def test_the_written_adapter_gives_the_trained_models_logits(trained, tmp_path):
    folder = save(trained, tmp_path)
    assert verify_adapter(folder, trained[0], small_llama(trained[1])) <= 1e-5


def test_the_largest_difference_of_a_logit_is_measured_and_told(trained, tmp_path, monkeypatch):
    logits = adapter_files._logits
    change = iter([0.0, 3e-6])
    monkeypatch.setattr(adapter_files, "_logits", lambda model: logits(model) * 0 + next(change))
    folder = save(trained, tmp_path)
    gap = json.loads((folder / "manifest.json").read_text())["largest_logit_difference"]
    assert gap == pytest.approx(3e-6)
    assert (folder / "README.md").read_text() == f"# What it learned\n{gap}"


def test_plain_peft_loads_it_over_a_fresh_base(trained, tmp_path):
    model, tokenizer = trained
    save(trained, tmp_path)
    ids = torch.tensor([[5, 6, 7, 8]])
    fresh = small_llama(tokenizer)
    base = fresh(ids).logits
    reloaded = PeftModel.from_pretrained(fresh, tmp_path)
    assert (reloaded(ids).logits - model(ids).logits).abs().max() <= 1e-5
    assert (reloaded(ids).logits - base).abs().max() > 1e-2


def test_every_linear_layer_is_adapted_but_the_head(trained):
    names = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in lora_state(trained[0])}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(lora_state(trained[0])) == 2 * 7 * 2


def test_a_new_adapter_changes_nothing_and_its_seed_decides_it():
    tokenizer = byte_tokenizer()
    base = small_llama(tokenizer)
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = base(ids).logits
    one, same, other = (
        attach_lora(small_llama(tokenizer), rank=4, alpha=8, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(one(ids).logits, plain)
    factors = [lora_state(model) for model in (one, same, other)]
    key = next(name for name in factors[0] if "lora_A" in name)
    assert torch.equal(factors[0][key], factors[1][key])
    assert not torch.equal(factors[0][key], factors[2][key])


def test_merged_weights_are_the_base_plus_the_scaled_product(trained):
    model, _ = trained
    state = lora_state(model)
    merged = dict(merged_weights(model))
    name = "model.layers.1.mlp.up_proj"
    a, b = (state[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    base = model.get_base_model().get_submodule(name).base_layer.weight
    assert len(merged) == 14
    assert torch.allclose(merged[f"{name}.weight"], base + 16 / 8 * b @ a, atol=1e-6)


def test_the_base_is_named_by_its_public_id_alone(trained, tmp_path):
    config = json.loads((save(trained, tmp_path) / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/base" == base_of(tmp_path)
    assert str(tmp_path) not in "".join(
        path.read_text() for path in tmp_path.iterdir() if path.suffix in (".json", ".md")
    )


def test_the_tokenizer_beside_it_renders_what_was_trained(trained, tmp_path):
    chat = Chat(trained[1])
    tokenizer = AutoTokenizer.from_pretrained(save(trained, tmp_path))
    plain = [message.to_dict() for message in (SYSTEM, USER)]
    ids = tokenizer.apply_chat_template(plain, add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    assert ids == chat.open([SYSTEM, USER])


def test_the_card_is_kept_beside_it(trained, tmp_path):
    assert (save(trained, tmp_path) / "README.md").read_text().startswith("# What it learned")


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "chat_template.jinja", "adapter_config.json"]
)
def test_a_changed_file_is_found_by_its_hash(trained, tmp_path, name):
    save(trained, tmp_path)
    verify_files(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b" ")
    with pytest.raises(UsageError, match=name):
        verify_files(tmp_path)


def test_an_adapter_that_is_not_the_trained_one_is_found_by_its_logits(trained, tmp_path):
    save(trained, tmp_path)
    with torch.no_grad():
        next(weight for name, weight in trained[0].named_parameters() if "lora_B" in name).add_(0.1)
    with pytest.raises(UsageError, match="other logits"):
        verify_adapter(tmp_path, trained[0], small_llama(trained[1]))


def test_an_adapter_plays_as_a_policy_on_the_base_that_it_names(trained, tmp_path):
    model, tokenizer = trained
    small_llama(tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    save(trained, tmp_path / "adapter", base_id=str(tmp_path / "base"))
    said = []
    for policy in (
        open_model(str(tmp_path / "base"), WORLD),
        open_adapter(str(tmp_path / "adapter"), WORLD),
    ):
        said.append(policy.open([SYSTEM, USER], (), seed=0).reply().token_ids)
        policy.engine.close()
    prompt = torch.tensor([Chat(tokenizer).open([SYSTEM, USER])])
    expected = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False
    )
    assert list(said[1]) == expected[0, prompt.shape[1] :].tolist()
    assert said[0] != said[1]


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "adapter_config.json", "tokenizer.json"]
)
def test_an_adapter_that_was_changed_is_not_opened_and_each_difference_is_told(
    trained, tmp_path, name
):
    folder = save(trained, tmp_path)
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UsageError) as told:
        open_adapter(str(folder), WORLD)
    assert f"{name} has changed since it was written (sha256 " in str(told.value)
    assert "chat_template.jinja is missing" in str(told.value)


def test_a_card_may_be_edited_and_an_adapter_of_another_tool_has_no_manifest(
    trained, tmp_path, caplog
):
    model, tokenizer = trained
    small_llama(tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    folder = save(trained, tmp_path / "adapter", base_id=str(tmp_path / "base"))
    (folder / "README.md").write_text("# Ours")
    open_adapter(str(folder), WORLD).engine.close()
    assert "manifest" not in caplog.text
    (folder / "manifest.json").unlink()
    open_adapter(str(folder), WORLD).engine.close()
    assert "no manifest.json: its files are taken as they are" in caplog.text


@pytest.mark.parametrize(
    ("options", "reason"), [({"rank": 12}, "use 16"), ({"rank": 8, "use_dora": True}, "DoRA")]
)
def test_what_no_server_loads_is_not_written(tmp_path, options, reason):
    tokenizer = byte_tokenizer()
    model = attach_lora(small_llama(tokenizer), alpha=16, seed=0, **options)
    with pytest.raises(UsageError, match=reason):
        save((model, tokenizer), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no adapter_config\.json"):
        open_adapter(str(tmp_path), WORLD)


@pytest.mark.model
def test_the_real_models_adapter_reloads_to_its_own_logits_and_names_the_hub(tmp_path):
    from envgym_trainer.model.load import load_model, resolve

    model, tokenizer = load_model("smollm2-135m-instruct", device="cpu")
    trained = randomise(attach_lora(model, rank=8, alpha=16, seed=0)), tokenizer
    save(trained, tmp_path, base_id=resolve("smollm2-135m-instruct").public_id)
    assert base_of(tmp_path) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert verify_adapter(tmp_path, trained[0], SamplerModel(trained[0]).model) <= 1e-5
