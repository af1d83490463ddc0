import hashlib
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from envgym_trainer.model import tiny
from envgym_trainer.model.lora import attach_lora
from envgym_trainer.model.tiny import WORDS, build, build_model, build_tokenizer

CALL = "guess(number=8)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_folder_is_an_ordinary_hugging_face_model(folder):
    names = {file.name for file in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert 400_000 < sum(weight.numel() for weight in model.parameters()) < 600_000


def test_it_is_the_same_each_time_and_leaves_the_randomness_of_others_alone(folder, tmp_path):
    torch.manual_seed(5)
    build(tmp_path)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert drawn == torch.rand(1)
    assert (tmp_path / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()


def test_what_is_built_changes_only_with_the_version():
    """If this fails, increase VERSION and write the new values here."""
    tokenizer = build_tokenizer()
    text = json.dumps([tiny.vocabulary(), tiny.PATTERN])
    weights = {n: w.double().sum().item() for n, w in build_model(tokenizer).named_parameters()}
    assert tiny.VERSION == 1
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "d6d81d3668b0dd3c"
    assert len(weights) == 20
    assert weights["model.embed_tokens.weight"] == pytest.approx(57.846, abs=1e-3)
    assert weights["model.layers.0.self_attn.v_proj.weight"] == pytest.approx(0.382, abs=1e-3)


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=60))
def test_any_text_comes_back_exactly(text):
    tokenizer = TOKENIZER
    assert (
        tokenizer.decode(
            tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        )
        == text
    )


TOKENIZER = build_tokenizer()


@pytest.mark.parametrize(
    "text",
    [
        "Grüße 🙂 日本\u200b\x00",
        " \r\n\t  x",
        "</tool_call><tool_call",
        "C17 007 1234567890",
        "<|im_end|>",
    ],
)
def test_awkward_texts_come_back_exactly_from_the_saved_tokenizer(tokenizer, text):
    assert tokenizer.decode(ids(tokenizer, text)) == text


def test_a_call_is_a_handful_of_tokens(tokenizer):
    assert tokenizer.convert_ids_to_tokens(ids(tokenizer, CALL)) == [
        "guess",
        "(",
        "number",
        "=",
        "8",
        ")",
    ]
    assert (
        len(ids(tokenizer, '<tool_call>{"name": "guess", "arguments": {"number": 8}}</tool_call>'))
        == 17
    )


@pytest.mark.parametrize("number", [0, 9, 10, 15, 99, 100, 128])
def test_a_small_number_is_one_token(tokenizer, number):
    assert len(ids(tokenizer, str(number))) == 1


def test_each_known_word_is_one_token_with_and_without_its_space(tokenizer):
    assert all(
        len(ids(tokenizer, form)) == 1
        for word in WORDS
        for form in (word, " " + word, " " + word.capitalize())
    )


def test_chatml_marks_are_special_and_a_turn_ends_with_eos(tokenizer):
    assert len(ids(tokenizer, "<|im_start|><|im_end|><|endoftext|>")) == 3
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.decode(ids(tokenizer, "hi<|im_end|>"), skip_special_tokens=True) == "hi"


def test_it_reads_2048_tokens(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        assert model(input_ids=torch.arange(2048).view(1, -1) % 1000).logits.isfinite().all()


def test_an_adapter_on_the_random_base_can_become_certain():
    """Test the reason for EMBEDDING_STD.

    At a usual scale the frozen head keeps every probability below a third.
    """
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    model = attach_lora(build_model(tokenizer), rank=8, alpha=16, seed=0).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=5e-3)
    row = torch.tensor([ids(tokenizer, f"<|im_start|>assistant\n{CALL}<|im_end|>")])
    for _ in range(30):
        loss = model(input_ids=row, labels=row).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.exp().item() < 1.25  # a geometric mean probability of at least 0.8
