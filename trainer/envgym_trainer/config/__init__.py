"""The `train:` block of an environment's YAML: every setting of the trainer, with units, bounds and defaults.

Importable without torch, so that `envgym schema` and the check of a YAML cost nothing. Settings in `profiles.cpu` and
`profiles.gpu` go over the others on such a device; settings on the command line go over both.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from envgym.block import Block
from envgym.errors import UsageError
from envgym_trainer.config.algorithm import AlgorithmConfig, expand
from envgym_trainer.config.controllers import ControllersConfig
from envgym_trainer.config.curriculum import CurriculumConfig
from envgym_trainer.config.reward_weights import RewardWeightsConfig
from envgym_trainer.config.sampling import SamplingConfig
from envgym_trainer.config.self_training import SelfTrainingConfig
from envgym_trainer.config.server_limits import refusals


class LoraConfig(Block):
    rank: int = Field(default=16, ge=1)
    """Rank of the adapter; vLLM serves 1, 8, 16, 32, 64, 128, 256, 320 and 512."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale: the adapter's output is multiplied by alpha / rank."""
    targets: str | tuple[str, ...] = "all-linear"
    """Which layers: `all-linear` (all but the output head), or names such as q_proj."""
    rslora: bool = False
    """Multiply by alpha / sqrt(rank) instead, so that a high rank does not weaken the adapter."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's inputs left out while learning. Above 0 the learner's probabilities are no longer those of
    sampling, and the gradient depends on how a step is cut into micro-batches; a warning says so."""
    quantize: Literal["none", "4bit"] = "none"
    """`4bit` keeps the base's linear layers in 4 bits (NF4) while learning; needs bitsandbytes: pip install 'envgym[quantize]'."""
    dora: bool = False
    """Train the length of each row of the adapted weights as well (DoRA). No server loads it: needs `export: none`."""
    bias: Literal["none", "lora_only", "all"] = "none"
    """Train biases as well: those of adapted layers, or all. No server loads them: needs `export: none`."""
    modules_to_save: tuple[str, ...] = ()
    """Modules to train whole, such as norm; never the output head. No server loads them: needs `export: none`."""
    export: Literal["adapter", "none"] = "adapter"
    """What the run leaves behind: an adapter that servers load, or checkpoints alone, for studies of what servers refuse."""

    @model_validator(mode="after")
    def _can_be_served(self) -> LoraConfig:
        found = refusals(
            rank=self.rank, dora=self.dora, bias=self.bias, modules_to_save=self.modules_to_save
        )
        if found and self.export == "adapter":
            raise ValueError(
                f"{'; '.join(found)}; or set train.lora.export=none, and no adapter is written"
            )
        return self


class WarmupConfig(Block):
    """Supervised fine-tuning on episodes of the oracle, before GRPO; it trains the same adapter."""

    demos: int = Field(default=0, ge=0)
    """Oracle episodes to learn from, each a fresh task of the train split; 0 skips the warm start."""
    demos_per_step: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=5e-4, gt=0)


class EvalConfig(Block):
    split: Literal["val", "test"] = "test"
    """Held-out tasks of the table at the end."""
    tasks: int | None = Field(default=None, ge=1)
    """How many of them; all by default."""
    base_tasks: int | None = Field(default=None, ge=0)
    """How many for the model as it came, before any training; as many as `tasks` by default, 0 for none."""
    every: int = Field(default=0, ge=0)
    """GRPO steps between evaluations on validation tasks; 0 for none."""
    val_tasks: int = Field(default=64, ge=1)
    """Validation tasks of each of those."""
    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""


class ServerConfig(Block):
    url: str
    """Of a vLLM server that has the same base model, such as http://localhost:8000."""
    model: str | None = None
    """The base model's name there; its only one by default."""
    adapters: str | None = None
    """Folder for the adapter's versions, under the same path on both sides; in the run's folder by default."""


class TrainConfig(Block):
    model: str = "smollm2-135m-instruct"
    """A built-in name (smollm2-135m-instruct, tiny), a Hugging Face id, or a local directory."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen base; auto is float32 on a CPU and bfloat16 on a GPU. The adapter is always float32."""
    seed: int = Field(default=0, ge=0)
    """Fixes the adapter's start, the order of tasks and all sampling."""
    levels: tuple[str, ...] = ()
    """Levels of the tasks to train and evaluate on; empty for all of the environment."""
    lora: LoraConfig = LoraConfig()
    warmup: WarmupConfig = WarmupConfig()
    steps: int = Field(default=50, ge=0)
    """GRPO steps."""
    tasks_per_step: int = Field(default=4, ge=1)
    """Groups a step, each on a fresh task."""
    group_size: int = Field(default=8, ge=2)
    """Episodes of one task from one identical state, compared with each other."""
    max_extra_groups: int = Field(default=0, ge=0)
    """Dynamic sampling (DAPO): groups a step that may be played on top, each to replace one whose rewards all agree; 0 for none."""
    curriculum: CurriculumConfig = CurriculumConfig()
    updates_per_step: int = Field(default=1, ge=1)
    """Optimiser updates made of one step's groups, each on its own share of them; more learns faster, slightly off-policy."""
    epochs_per_step: int = Field(default=1, ge=1)
    """Times that a step's groups are learned from; from the second on the policy is no longer the one that sampled them, which
    the clipped ratio allows for and `offpolicy/staleness_mean` shows."""
    one_step_off: bool = False
    """Play the next step's episodes while this one is learned from, with the adapter from before its update: for a server or slow
    tools, which would wait meanwhile. The step after a checkpoint or a validation is always played afresh."""
    on_mismatch: Literal["warn", "stop"] = "warn"
    """When sampler and trainer give the same token different probabilities, beyond rounding: say so once and go on, or save and
    stop before the update. `alarm/mismatch` is 1 at such a step."""
    signals: bool = True
    """Watch for the signs of a gamed reward: told once, kept in `signals.jsonl` and on the curves `signals/...`. Nothing is done
    about them."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """AdamW, constant after `lr_warmup_steps`."""
    lr_warmup_steps: int = Field(default=4, ge=0)
    """Updates over which the learning rate rises from 0, in the warm start and again in GRPO."""
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling, and of scoring what was sampled."""
    sampling: SamplingConfig = SamplingConfig()
    server: ServerConfig | None = None
    """Sample on a vLLM server instead of in this process; README has the command that starts one."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Tokens of one answer."""
    max_context: int = Field(default=2048, ge=64)
    """Tokens of one whole dialogue; an episode that needs more is cut."""
    algorithm: AlgorithmConfig = AlgorithmConfig()
    """The name of a preset, such as `gspo`, or a block of settings."""
    reward_weights: RewardWeightsConfig = RewardWeightsConfig()
    self_training: SelfTrainingConfig | None = None
    """Train on tasks without true labels, by the votes of their groups."""
    scale_by_std: bool = True
    """Divide advantages by a deviation (GRPO); false is Dr. GRPO. `algorithm.std` says which one."""
    clip_low: float = Field(default=0.2, gt=0)
    clip_high: float = Field(default=0.28, gt=0)
    """Ratio's upper clip; above clip_low it leaves room to explore (DAPO)."""
    kl_coef: float = Field(default=0.0, ge=0)
    """Weight of the estimate of KL(policy || base); `algorithm.kl` and `algorithm.kl_place` say which and where."""
    entropy_coef: float = Field(default=0.0, ge=0)
    """Weight of a bonus for the entropy of sampled tokens, in nats; above 0, samples without advantage are computed too."""
    controllers: ControllersConfig = ControllersConfig()
    max_grad_norm: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_tokens_per_micro_batch: int = Field(default=4096, ge=64)
    """Tokens in one forward pass of training; bounds memory, never changes the gradient."""
    workers: int = Field(default=64, ge=1)
    """Episodes in flight, and rows of the sampler's largest batch."""
    eval: EvalConfig = EvalConfig()
    preflight: Literal["auto", "full", "off"] = "auto"
    """Before the first step, find out whether the run can learn, and refuse it where it cannot: `auto` takes seconds, `full` does
    what `envgym doctor` does."""
    save_every: int = Field(default=10, ge=0)
    """GRPO steps between checkpoints; 0 saves at the end only."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many of the last checkpoints stay; the best by validation stays besides them."""
    export: Literal["last", "best"] = "last"
    """Which adapter is evaluated and handed over at the end: of the last step, or of the step with the highest success on
    validation tasks (the earlier of equals), for which `eval.every` must not be 0."""
    deterministic: bool = False
    """Play all episodes in step, so that a run, resumed or not, ends with the same bits on one CPU. Costs speed: at each turn
    all wait for the slowest. Without it runs differ in the last bits, which grow."""
    profiles: dict[Literal["cpu", "gpu"], dict[str, Any]] = Field(default_factory=dict)
    """Settings for one kind of device, put over the others there."""

    @model_validator(mode="before")
    @classmethod
    def _algorithm_written_out(cls, data: Any) -> Any:
        return expand(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _profiles_fit(self) -> TrainConfig:
        for name, settings in self.profiles.items():
            try:
                TrainConfig.model_validate(settings)
            except ValidationError as error:
                first = error.errors()[0]
                raise ValueError(
                    f"profiles.{name}.{'.'.join(map(str, first['loc']))}: {first['msg']}"
                ) from None
        return self

    @field_validator("preflight", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare `off` as false

    @model_validator(mode="after")
    def _reference_is_the_base(self) -> TrainConfig:
        if self.kl_coef > 0 and self.lora.bias != "none":
            raise ValueError(
                "kl_coef measures the distance to the model without its adapter, but biases stay trained when it is off; "
                "take lora.bias: none or kl_coef: 0"
            )
        return self

    @classmethod
    def of(cls, block: dict[str, Any]) -> TrainConfig:
        """The settings of a YAML's block, which `load_spec` has already checked."""
        return cls.model_validate(block)

    def checked(self) -> TrainConfig:
        """Itself, for a run. Raises UsageError for settings that contradict each other (a profile may have put them together)."""
        if self.export == "best" and not self.eval.every:
            raise UsageError(
                "train.export is best, but train.eval.every is 0, so no validation would tell which adapter that is. Set "
                "train.eval.every, such as to 5 GRPO steps, or train.export=last."
            )
        if self.server and self.deterministic:
            raise UsageError(
                "train.deterministic needs the sampler of this process: a server batches as it likes. Leave one out."
            )
        if self.one_step_off and self.deterministic:
            raise UsageError(
                "train.deterministic plays and learns in turn, train.one_step_off at once. Leave one out."
            )
        if self.self_training:
            self.self_training.check(
                eval_every=self.eval.every,
                signals=self.signals,
                adaptive=self.curriculum.adaptive,
                one_step_off=self.one_step_off,
                is_served=self.server is not None,
            )
        self.controllers.check(
            kl_coef=self.kl_coef,
            learning_rate=self.learning_rate,
            updates_per_step=self.updates_per_step,
        )
        return self
