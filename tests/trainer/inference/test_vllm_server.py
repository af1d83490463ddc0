"""The vLLM engine trains the sampled ids unchanged and names each adapter version separately."""

import pytest
from peft import LoraConfig, get_peft_model

from envgym.errors import PrerequisiteError, UsageError, WorldFailure
from envgym_trainer.batch import Sample
from envgym_trainer.inference.vllm.engine import VllmEngine
from envgym_trainer.inference.vllm.errors import AdapterRefused, ServerGone
from envgym_trainer.inference.vllm.server import RemoteServer
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.update_settings import UpdateSettings
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.load import load_model
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.launch import start
from tests.fakes.dialogues import gap, talk, together
from tests.fakes.small_models import byte_tokenizer, small_llama
from tests.fakes.vllm_server import StandIn, serving

TOKENIZER = byte_tokenizer()
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def state():
    return StandIn(small_llama(TOKENIZER))


@pytest.fixture
def engine(state, tmp_path):
    with serving(state) as url:
        engine = open_server(url, state, tmp_path)
        yield engine
        engine.close()


def open_server(url, state, folder, *, model=None, wait_seconds=0.0):
    return VllmEngine(
        RemoteServer(url, wait_seconds=wait_seconds),
        Chat(TOKENIZER, model=state.base),
        model=model,
        adapters=folder,
        max_context=600,
        backoff_seconds=0.01,
    )


def adapted_model():
    config = LoraConfig(r=8, target_modules=LINEARS, init_lora_weights=False)
    return get_peft_model(small_llama(TOKENIZER), config)


def test_dialogues_on_a_server_keep_ids_and_logprobs_from_turn_to_turn(state, engine):
    for temperature in (1.0, 0.7):
        policy = engine.policy(temperature=temperature, max_new_tokens=6)
        for dialogue in together(lambda n, policy=policy: talk(policy, seed=n), 4):
            assert gap(state.base, dialogue.trace(), temperature) < 1e-4


def test_the_seed_decides_what_is_sampled_and_each_turn_has_one_of_its_own(state, engine):
    policy = engine.policy(max_new_tokens=6)
    ids = [talk(policy, seed=seed).trace().token_ids for seed in (1, 1)]
    assert ids[0] == ids[1]
    seeds = [body["seed"] for path, body in state.requests if path == "/v1/completions"]
    assert len(set(seeds)) == 3


def test_nothing_cuts_the_distribution_whatever_the_servers_own_defaults(state, engine):
    talk(engine.policy(max_new_tokens=2), seed=0, turns=1)
    body = state.requests[-1][1]
    neutral = {
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    assert neutral.items() <= body.items()


def test_only_the_chats_own_stop_ids_end_a_turn_whatever_the_server_takes_for_the_end(
    state, engine
):
    trace = talk(engine.policy(max_new_tokens=4, temperature=0.0), seed=0, turns=1).trace()
    state.eos = trace.token_ids[trace.loss_mask.index(True)]
    assert talk(engine.policy(max_new_tokens=4, temperature=0.0), seed=0, turns=1).trace() == trace


def test_a_changed_adapter_is_sampled_at_once_under_another_name_and_salt_and_the_old_one_is_gone(
    state, engine, tmp_path
):
    adapted = get_peft_model(
        small_llama(TOKENIZER), LoraConfig(r=8, target_modules=LINEARS, init_lora_weights=False)
    )
    learner = Learner(adapted)
    for version in (1, 2):
        engine.load_adapter(adapted)
        traces = [
            d.trace() for d in together(lambda n: talk(engine.policy(max_new_tokens=6), seed=n), 4)
        ]
        assert max(gap(adapted, trace) for trace in traces) < 1e-4
        assert len(state.adapters) == len(list(tmp_path.iterdir())) == 1
        metrics = learner.update(
            [Sample.from_trace(trace, advantage=(-1.0) ** n) for n, trace in enumerate(traces)],
            UpdateSettings(learning_rate=1e-2),
        )
        assert metrics["sampling/sampling_logp_difference/max"] < 1e-4
        assert learner.updates == version
    salts = {body["cache_salt"] for path, body in state.requests if path == "/v1/completions"}
    assert len(salts) == 2
    engine.close()
    assert not state.adapters


def test_the_base_is_sampled_again_after_refresh_with_nothing(state, engine):
    base = talk(engine.policy(max_new_tokens=6), seed=0).trace()
    adapted = get_peft_model(
        small_llama(TOKENIZER), LoraConfig(r=8, target_modules=LINEARS, init_lora_weights=False)
    )
    engine.load_adapter(adapted)
    other = talk(engine.policy(max_new_tokens=6), seed=0).trace()
    engine.load_adapter()
    assert talk(engine.policy(max_new_tokens=6), seed=0).trace() == base != other


def test_a_server_without_adapters_at_run_time_is_told_with_the_remedy(tmp_path):
    state = StandIn(small_llama(TOKENIZER), loads_adapters=False)
    adapted = get_peft_model(state.base, LoraConfig(r=8, target_modules=LINEARS))
    with serving(state) as url:
        engine = open_server(url, state, tmp_path)
        with pytest.raises(
            AdapterRefused,
            match=r"would not load the adapter.*VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
        ):
            engine.load_adapter(adapted)
        engine.close()


def test_no_server_and_another_model_are_told_at_the_start(state, tmp_path):
    with pytest.raises(PrerequisiteError, match="no server answers"):
        open_server("http://127.0.0.1:9", state, tmp_path)
    with (
        serving(state) as url,
        pytest.raises(UsageError, match=r"no model 'x', but tiny. Set train.engine.vllm.model"),
    ):
        open_server(url, state, tmp_path, model="x")


def test_a_server_that_is_busy_for_a_moment_is_asked_again(state, engine):
    state.unavailable = 2
    engine.load_adapter(adapted_model())
    state.unavailable = 2
    talk(engine.policy(max_new_tokens=2), seed=0, turns=1)
    loads = [path for path, _ in state.requests if path == "/v1/load_lora_adapter"]
    assert len(loads) == 3
    assert len(state.adapters) == 1


def test_a_server_that_is_gone_is_a_failure_of_the_world_not_of_the_user(state, tmp_path, caplog):
    model = adapted_model()
    with serving(state) as url:
        engine = open_server(url, state, tmp_path)
        engine.load_adapter(model)
    for use in (
        lambda: engine.load_adapter(model),
        lambda: talk(engine.policy(max_new_tokens=2), seed=0, turns=1),
    ):
        with pytest.raises(ServerGone, match=rf"{url} does not answer.*--resume") as caught:
            use()
        assert (caught.value.kind, caught.value.stage) == ("policy_failed", "policy")
    engine.close()
    assert "stays on the server" in caplog.text


def test_an_adapter_that_the_server_rejects_is_the_users_to_mend(state, engine):
    state.reject = "LoRA rank 8 is greater than max_lora_rank 4."
    with pytest.raises(AdapterRefused, match=r"would not load the adapter.*rank 8 is greater"):
        engine.load_adapter(adapted_model())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda choice: choice.pop("token_ids"), "no token ids with their logprobs"),
        (
            lambda choice: choice["logprobs"]["token_logprobs"].pop(),
            "3 tokens with 2 probabilities",
        ),
        (
            lambda choice: (
                choice["token_ids"].__setitem__(slice(None), [5, 5])
                or choice["logprobs"]["token_logprobs"].pop()
            ),
            "does not end there",
        ),
    ],
)
def test_an_answer_that_cannot_be_trained_on_voids_the_episode(state, engine, change, told):
    state.change = change
    with pytest.raises(WorldFailure, match=told) as caught:
        talk(engine.policy(max_new_tokens=3), seed=0, turns=1)
    assert caught.value.kind == "policy_failed"


def server_run(url, folder):
    """Return the settings of a small run on the server."""
    # group members must differ to give a gradient
    (folder / "parts.py").write_text(
        "def brief(evidence): return len(evidence.final_message) / 100\n"
    )
    return [
        "train.warm_start.episodes=16",
        "train.steps=2",
        "train.rollout.groups_per_step=1",
        "train.rollout.group_size=3",
        "train.evaluation.tasks=2",
        "train.evaluation.base_tasks=0",
        "train.checks.preflight=off",
        f"train.engine={{vllm: {{url: '{url}', wait_seconds: 0}}}}",
        "train.optimizer.learning_rate=1e-2",
        f"reward.brief={{from: {folder}/parts.py:brief, weight: 1.0}}",
    ]


def test_a_run_whose_server_goes_away_stops_with_the_command_that_continues_it(tmp_path, capsys):
    model, _ = load_model("tiny", device="cpu")
    state = StandIn(model)
    answer = state.answer

    def gone(path, body):
        if path == "/v1/load_lora_adapter" and body["lora_name"].endswith("-2"):
            state.unavailable = 1
        return answer(path, body)

    state.answer = gone
    with serving(state) as url:
        settings = server_run(url, tmp_path)
        assert start("guess", settings, out=tmp_path, name="r", resume=None) == 1
        told = " ".join(capsys.readouterr().out.split())
        assert "HTTP 503: busy" in told
        assert "stopped. To continue: envgym train guess" in told
        state.answer = answer
        assert start("guess", settings, out=tmp_path, name="r", resume=tmp_path / "r") == 0
    steps = [line["step"] for line in RunFolder.open(tmp_path / "r").metrics()]
    assert steps == sorted(steps)
    assert not state.adapters


def test_a_run_samples_warm_start_and_grpo_on_the_server_and_the_two_agree_at_each_step(tmp_path):
    model, _ = load_model("tiny", device="cpu")
    state = StandIn(model)
    with serving(state) as url:
        settings = server_run(url, tmp_path)
        assert start("guess", settings, out=tmp_path, name="r", resume=None) == 0
    run = RunFolder.open(tmp_path / "r")
    steps = [line for line in run.metrics() if line["phase"] == "grpo"]
    assert all(line["grad_norm"] > 0 and line["off_policy/mismatch_max"] < 1e-4 for line in steps)
    assert len({body["model"] for path, body in state.requests if path == "/v1/completions"}) >= 4
    assert not state.adapters
    assert (run.adapter / "adapter_model.safetensors").is_file()
