"""Environments and the table of `test_every_key.py`: a row for each key of the `train:` block."""

import importlib.util
import threading
import zlib
from typing import NamedTuple

import gymnasium

from envgym.spaces import UnicodeText

# --- two small environments ---


class Chat(gymnasium.Env):
    """Environment of three turns. Reward, mistakes and observations depend on the answers."""

    observation_space = UnicodeText()
    action_space = UnicodeText()
    lock = threading.Lock()
    running = 0
    most_at_once = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        with self.lock:
            Chat.running += 1
            Chat.most_at_once = max(Chat.most_at_once, Chat.running)
        self.turn = 0
        return "go", {}

    def step(self, action):
        self.turn += 1
        value = zlib.crc32(action.encode())
        ends = self.turn == 2 + value % 2
        with self.lock:
            Chat.running -= ends
        info = {"mistakes": value % 2}
        over = value % 3 == 0
        return "more " * 9, value % 11 / 10, ends and not over, ends and over, info


CHAT = "id: test/chat-v0\ngym: envgym-test/EveryKey-v0\ntasks: {val: 2, test: 2}\n"
QUIZ = """\
id: test/quiz-v0
tools: []
sandbox: {backend: none}
tasks: {from: quiz_tasks.py, val: 6, test: 6}
reward:
  solved: {from: boxed_right}
  agreed: {from: majority_vote}
  words: {from: "parts.py:words", weight: 0.5}
  letters: {from: "parts.py:letters"}
  rare: {from: "parts.py:rare"}
episode: {max_turns: 9}
"""
PARTS = """\
def words(evidence):
    return sum(map(ord, evidence.final_message)) % 7 / 10


def letters(evidence):
    return sum(map(ord, evidence.final_message)) % 11 / 2


def rare(evidence):
    return float(evidence.task.level == "L1") * (sum(map(ord, evidence.final_message)) % 13)
"""
FEEDBACK = '{"episode": "1:1", "like": true}\n{"episode": "1:2", "like": false}\n'
BASE = (
    "model={name: tiny, device: cpu}",
    "lora.rank=8",
    "steps=1",
    "checks.preflight=off",
    "rollout={groups_per_step: 2, group_size: 2, max_turn_tokens: 3, max_context_tokens: 512}",
    "rollout.max_concurrent_episodes=4",
    "rollout.deterministic=true",
    "evaluation={tasks: 1, base_tasks: 0, validation_tasks: 1}",
    "output.adapter=none",
)

# --- the table ---


class Row(NamedTuple):
    value: str
    """Value away from the default, as on a command line."""
    within: tuple[str, ...] = ()
    """Settings in which the key matters."""
    env: str = "chat"
    shows: str = "number"
    """`number`: a number of the run changes. `file`: the list of its files changes. Otherwise the
    run is refused, and this is a pattern of the reason."""


ADAPTER = ("output.adapter=last",)
SERVER = ("engine.vllm.url=http://127.0.0.1:1",)
MANAGED = ("engine.vllm.start=true",)
NO_VLLM = ("engine.vllm.command=no-vllm", "rollout.deterministic=false")
OPENAI = ("engine.openai.url=http://127.0.0.1:1",)
MOVING = (
    "optimizer={learning_rate: 0.05, warmup_updates: 0, epochs_per_step: 2, updates_per_step: 2}",
)
TURNS = ("algorithm=turns",)
GIGPO = ("algorithm=gigpo",)
CONSTANT = ("algorithm.aggregation.kind=constant",)
KL = (*MOVING, "algorithm.kl.coef=0.5")
MASK = ("algorithm.importance_weights={mode: mask, max: 1.5, min: 0.5}",)
LONG = ("algorithm.overlong_penalty={max_tokens: 9, slope_tokens: 4}",)
FOLLOW_KL = (*KL, "steps=2", "controllers.kl={target: 1.0e-9}")
FOLLOW_RATE = (
    "optimizer={learning_rate: 1.0e-4, warmup_updates: 0}",
    "controllers.learning_rate={target: 100.0}",
)
FOLLOW_ENTROPY = ("algorithm.entropy_coef=0.01", "controllers.entropy={target: 1.0}")
TWO = ("steps=2",)
VALIDATED = (*TWO, "evaluation.validate_every_steps=1")
ADAPTIVE = (*TWO, "tasks.adaptive=true")
HORIZON = (*TWO, "tasks.horizon={start_turns: 1, end_turns: 5, over_steps: 2}")
WARM = ("warm_start={episodes: 2, episodes_per_step: 2}", "steps=0")
SPREAD = (*TWO, "reward_weights.mode=spread")
LIKES = ("steps=3", "reward_weights={mode: feedback, feedback_file: FOLDER/likes.jsonl}")
PLAN = ("plan={name: self_training, pool_size: 12}", "evaluation.validate_every_steps=1")
AVERAGE = (
    *PLAN,
    *TWO,
    "optimizer.learning_rate=0.05",
    "plan.teacher=average",
    "plan.label_free_parts=[words]",
)
FEW_LABELS = (*PLAN, "plan.true_label_fraction=0.5")
STALE = (*TWO, "lora.dropout=0.9", "optimizer={learning_rate: 0.3, warmup_updates: 0}")
UNREWARDED = tuple(f"reward.{part}.weight=0" for part in ("words", "letters", "rare"))
NO_SERVER = r"127\.0\.0\.1:1"
NOT_SERVED = "or set train.output.adapter=none"
HAS_4_BIT = importlib.util.find_spec("bitsandbytes") is not None
ROWS = {
    "model.name": Row(".", shows="no config.json in this directory"),
    "model.device": Row("cuda:7", shows="CUDA|NVIDIA|device"),
    "model.dtype": Row("bfloat16"),
    "model.quantize": Row("4bit", shows="number" if HAS_4_BIT else "needs bitsandbytes"),
    "lora.rank": Row("16"),
    "lora.alpha": Row("64"),
    "lora.targets": Row("[q_proj]"),
    "lora.use_rslora": Row("true"),
    "lora.dropout": Row("0.5", MOVING),
    "lora.use_dora": Row("true", ADAPTER, shows=NOT_SERVED),
    "lora.bias": Row("all", ADAPTER, shows=NOT_SERVED),
    "lora.modules_to_save": Row("[norm]", ADAPTER, shows=NOT_SERVED),
    "seed": Row("1"),
    "steps": Row("2"),
    "tasks.levels": Row("[L1]", env="quiz"),
    "tasks.adaptive": Row("true", TWO, env="quiz"),
    "tasks.min_weight": Row("1.0", ADAPTIVE, env="quiz"),
    "tasks.pass_rate_decay": Row("0.1", ADAPTIVE, env="quiz"),
    "tasks.unlock_at": Row("0.5", VALIDATED, env="quiz"),
    "tasks.horizon.start_turns": Row("2", HORIZON, env="quiz"),
    "tasks.horizon.end_turns": Row("9", HORIZON, env="quiz"),
    "tasks.horizon.over_steps": Row("1", HORIZON, env="quiz"),
    "tasks.horizon.grow_at": Row("0.5", HORIZON, env="quiz", shows="set either over_steps"),
    "rollout.groups_per_step": Row("3"),
    "rollout.group_size": Row("3"),
    "rollout.max_extra_groups": Row("2", UNREWARDED, env="quiz"),
    "rollout.max_turn_tokens": Row("4"),
    "rollout.max_context_tokens": Row("64"),
    "rollout.temperature": Row("0.5"),
    "rollout.max_concurrent_episodes": Row("1"),
    "rollout.one_step_ahead": Row("true", shows="at once. Leave one out"),
    "rollout.deterministic": Row(
        "true", ("rollout.deterministic=false", "rollout.one_step_ahead=true"), shows="in turn"
    ),
    "engine.name": Row("vllm", shows="needs an address"),
    "engine.options": Row("{a: 1}", shows="options belongs to an engine of your own"),
    "engine.vllm.url": Row("http://127.0.0.1:1", ("rollout.deterministic=false",), shows=NO_SERVER),
    "engine.vllm.start": Row("true", NO_VLLM, shows="no executable 'no-vllm'"),
    "engine.vllm.command": Row(
        "other-vllm", (*NO_VLLM, "engine.vllm.start=true"), shows="no executable 'other-vllm'"
    ),
    "engine.vllm.arguments": Row("[-x]", SERVER, shows="arguments has no effect with url"),
    "engine.vllm.sleep": Row("true", SERVER, shows="sleep has no effect with url"),
    "engine.vllm.start_timeout_seconds": Row("9", SERVER, shows="no effect with url"),
    "engine.vllm.max_restarts": Row("9", SERVER, shows="no effect with url"),
    "engine.vllm.wait_seconds": Row("9", MANAGED, shows="wait_seconds has no effect with start"),
    "engine.vllm.model": Row("m", MANAGED, shows="model has no effect with start"),
    "engine.vllm.key": Row("env:HOME", MANAGED, shows="key has no effect with start"),
    "engine.vllm.adapter_folder": Row("/tmp", MANAGED, shows="folder has no effect with start"),
    "engine.openai.url": Row("http://127.0.0.1:1", shows="nothing can be trained on it"),
    "engine.openai.model": Row("m", OPENAI, shows="nothing can be trained on it"),
    "engine.openai.key": Row("env:HOME", OPENAI, shows="nothing can be trained on it"),
    "warm_start.episodes": Row("4", WARM, env="quiz"),
    "warm_start.episodes_per_step": Row("1", WARM, env="quiz"),
    "warm_start.learning_rate": Row("0.01", WARM, env="quiz"),
    "optimizer.learning_rate": Row("0.01"),
    "optimizer.warmup_updates": Row("1"),
    "optimizer.weight_decay": Row("0.5", MOVING),
    "optimizer.max_grad_norm": Row("1.0e-6", MOVING),
    "optimizer.updates_per_step": Row("2"),
    "optimizer.epochs_per_step": Row("2"),
    "optimizer.micro_batch_tokens": Row("64"),
    "optimizer.max_kl": Row("1.0e-9", MOVING),
    "algorithm.preset": Row("gspo"),
    "algorithm.loss.name": Row("cispo", MOVING),
    "algorithm.loss.clip_low": Row("1.0e-3", MOVING),
    "algorithm.loss.clip_high": Row("1.0e-3", MOVING),
    "algorithm.advantage.name": Row("rloo"),
    "algorithm.advantage.std": Row("none"),
    "algorithm.advantage.ddof": Row("1"),
    "algorithm.advantage.eps": Row("1.0"),
    "algorithm.advantage.discount": Row("0.5", TURNS),
    "algorithm.advantage.step_weight": Row("3.0", GIGPO),
    "algorithm.advantage.same_state": Row("observation", GIGPO),
    "algorithm.advantage.invalid_call_penalty": Row("0.3", TURNS),
    "algorithm.aggregation.kind": Row("sequence"),
    "algorithm.aggregation.length_tokens": Row("7", CONSTANT),
    "algorithm.kl.coef": Row("0.5", MOVING),
    "algorithm.kl.estimator": Row("k2", KL),
    "algorithm.kl.place": Row("reward", KL),
    "algorithm.entropy_coef": Row("0.1"),
    "algorithm.importance_weights.mode": Row("truncate"),
    "algorithm.importance_weights.per": Row("sequence", MASK),
    "algorithm.importance_weights.max": Row("1.0", MASK),
    "algorithm.importance_weights.min": Row("1.0", MASK),
    "algorithm.overlong_penalty.max_tokens": Row("5", LONG),
    "algorithm.overlong_penalty.slope_tokens": Row("9", LONG),
    "algorithm.mask_truncated": Row("true"),
    "controllers.kl.target": Row("100", FOLLOW_KL),
    "controllers.kl.gain": Row("1.0", FOLLOW_KL),
    "controllers.learning_rate.target": Row("1.0e-6", FOLLOW_RATE),
    "controllers.learning_rate.gain": Row("0.1", FOLLOW_RATE),
    "controllers.learning_rate.min": Row(
        "1.0e-3", ("controllers.learning_rate={target: 1}",), shows="outside of the bounds"
    ),
    "controllers.learning_rate.max": Row("1.0e-5", FOLLOW_RATE, shows="outside of the bounds"),
    "controllers.entropy.target": Row("100", FOLLOW_ENTROPY),
    "controllers.entropy.gain": Row("1.0", FOLLOW_ENTROPY),
    "controllers.entropy.proportional_gain": Row("5.0", FOLLOW_ENTROPY),
    "controllers.entropy.min": Row("0.05", FOLLOW_ENTROPY),
    "controllers.entropy.max": Row("0.005", FOLLOW_ENTROPY),
    "reward_weights.mode": Row("spread", TWO, env="quiz"),
    "reward_weights.max_factor": Row("1.0", SPREAD, env="quiz"),
    "reward_weights.rate": Row("1.0", SPREAD, env="quiz"),
    "reward_weights.min_varying_fraction": Row("1.0", SPREAD, env="quiz"),
    "reward_weights.feedback_file": Row("x.jsonl", env="quiz", shows="feedback_file needs"),
    "reward_weights.prior_strength": Row("50.0", LIKES, env="quiz"),
    "plan.name": Row("self_training", env="quiz", shows="needs held-out tasks"),
    "plan.pool_size": Row("4", PLAN, env="quiz"),
    "plan.easiest_fraction": Row("0.5", PLAN, env="quiz"),
    "plan.true_label_fraction": Row("1.0", PLAN, env="quiz"),
    "plan.max_true_labels": Row("0", FEW_LABELS, env="quiz"),
    "plan.labelled_levels": Row("[L0]", PLAN, env="quiz"),
    "plan.labelled_group_fraction": Row("0.5", FEW_LABELS, env="quiz"),
    "plan.label_free_parts": Row("[words]", PLAN, env="quiz"),
    "plan.keep_fraction": Row("0.5", PLAN, env="quiz"),
    "plan.teacher": Row("average", PLAN, env="quiz"),
    "plan.teacher_decay": Row("0.0", AVERAGE, env="quiz"),
    "evaluation.split": Row("val", env="quiz"),
    "evaluation.tasks": Row("2"),
    "evaluation.base_tasks": Row("1"),
    "evaluation.temperature": Row("1.0"),
    "evaluation.validate_every_steps": Row("1", TWO),
    "evaluation.validation_tasks": Row("2", VALIDATED),
    "output.adapter": Row("none", ADAPTER, shows="file"),
    "output.checkpoint_every_steps": Row("1", TWO, shows="file"),
    "output.keep_checkpoints": Row("1", (*TWO, "output.checkpoint_every_steps=1"), shows="file"),
    "checks.preflight": Row("auto", env="quiz", shows="this run cannot learn"),
    "checks.on_mismatch": Row("stop", STALE, shows="was not trained"),
    "checks.hacking_signals": Row("false", env="quiz"),
    "profiles": Row("{cpu: {seed: 1}}"),
}
