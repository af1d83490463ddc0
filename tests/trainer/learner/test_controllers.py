"""Controllers reach their targets on a small problem, and each rule is worked out by hand."""

import dataclasses
import math

import pytest
import torch
from pydantic import ValidationError

from envgym.errors import UsageError
from envgym_trainer.algorithms.entropy import entropy_bonus
from envgym_trainer.algorithms.kl import k3_kl
from envgym_trainer.config.controllers import (
    ControllersConfig,
    EntropyControl,
    KLControl,
    LearningRateControl,
)
from envgym_trainer.learner.controllers import STEP_KL, Controller, Controllers, find_controllers
from envgym_trainer.learner.controllers.entropy import AdaptiveEntropy
from envgym_trainer.learner.controllers.kl import AdaptiveKL
from envgym_trainer.learner.controllers.learning_rate import AdaptiveLearningRate
from envgym_trainer.learner.off_policy import MismatchMonitor, inner_updates
from envgym_trainer.learner.update_settings import UpdateSettings
from envgym_trainer.training.launch import resolve
from tests.fakes.losses import loss_of

ARMS = 8
PULLS = 512


class Bandit:
    """Softmax policy over eight arms, each of which pays its index / 7.

    It learns by plain gradient steps on the loss `grpo`. The base is uniform. Only the language
    model is missing compared with the real learner.
    """

    def __init__(self, *, seed=0, **settings):
        self.settings = UpdateSettings(**{"learning_rate": 0.5} | settings)
        self.updates = 0
        self.logits = torch.zeros(ARMS, dtype=torch.float64, requires_grad=True)
        self.generator = torch.Generator().manual_seed(seed)

    def pull(self):
        """Pull arms. Return the arms, their current logprobs and the advantages, one row a pull."""
        policy = self.logits.detach().log_softmax(0)
        arms = torch.multinomial(policy.exp(), PULLS, replacement=True, generator=self.generator)
        rewards = arms.double() / (ARMS - 1)
        return arms, policy[arms], rewards - rewards.mean()

    def update(self, pulls, settings, *, check=None):
        arms, old, advantages = pulls
        policy = self.logits.log_softmax(0)
        out = loss_of(
            "grpo",
            policy[arms],
            old,
            advantages,
            denominator=PULLS,
            kl_coef=settings.kl_coef,
            clip_low=9.0,
            clip_high=9.0,
            ref_logprobs=torch.full_like(old, -math.log(ARMS)) if settings.kl_coef else None,
        )
        entropy = -(policy.exp() * policy).sum().expand(PULLS)
        loss = out.loss + entropy_bonus(entropy, coef=settings.entropy_coef, denominator=PULLS)
        (gradient,) = torch.autograd.grad(loss, self.logits)
        metrics = {name: value.item() / PULLS for name, value in out.sums.items()} | {
            "entropy": entropy[0].item()
        }
        if settings.max_kl is not None and metrics["kl/old_current"] > settings.max_kl:
            return metrics | {"controller/update_skipped": 1.0, "grad_norm": 1.0}
        self.logits.data -= settings.learning_rate * gradient
        self.updates += 1
        return metrics | {"grad_norm": gradient.norm().item()}

    def step_kl(self, pulls):
        arms, old, _ = pulls
        return k3_kl(old, self.logits.detach().log_softmax(0)[arms]).mean().item()


def controlled(bandit, controls, steps):
    """Run `steps` steps, apply the controllers as the trainer does, and return the metrics."""
    settings = controls.apply(bandit.settings)
    lines = []
    for _ in range(steps):
        pulls = bandit.pull()
        metrics = bandit.update(pulls, settings)
        if controls.needs_step_kl:
            metrics[STEP_KL] = bandit.step_kl(pulls)
        settings = controls.next(settings, metrics)
        lines.append(metrics | controls.metrics())
    return lines


def controls_of(bandit, **config):
    return Controllers(ControllersConfig.model_validate(config), bandit.settings)


def assert_held(values, target):
    """Assert that the last half, in four windows, is on average within 20 % of the target.

    Averages leave out the noise of single steps, which the controller cannot remove.
    """
    half = values[len(values) // 2 :]
    size = len(half) // 4
    means = [sum(half[n * size : (n + 1) * size]) / size for n in range(4)]
    assert all(abs(mean / target - 1) < 0.2 for mean in means), means


@pytest.mark.parametrize("start", [0.001, 10.0])
def test_the_kl_to_the_base_comes_to_its_target_from_a_coefficient_too_small_or_too_large(start):
    bandit = Bandit(kl_coef=start)
    lines = controlled(bandit, controls_of(bandit, kl={"target": 0.3}), 1600 if start < 1 else 1200)
    assert_held([line["kl/current_base"] for line in lines], 0.3)


@pytest.mark.parametrize("start", [1e-4, 10.0])
def test_each_steps_kl_comes_to_its_target_from_a_rate_too_small_or_too_large(start):
    bandit = Bandit(learning_rate=start, entropy_coef=0.3)  # the bonus prevents collapse to one arm
    config = {"target": 1e-4, "min": 1e-5, "max": 100.0}
    lines = controlled(bandit, controls_of(bandit, learning_rate=config), 400)
    assert_held([line["controller/step_kl"] for line in lines], 1e-4)


@pytest.mark.parametrize("target", [0.4, 1.2])
def test_the_entropy_comes_to_its_target_where_without_a_bonus_it_would_be_lost(target):
    lost = Bandit()
    assert controlled(lost, controls_of(lost), 1500)[-1]["entropy"] < 0.3 * target
    bandit = Bandit()
    lines = controlled(bandit, controls_of(bandit, entropy={"target": target, "max": 2.0}), 1500)
    assert_held([line["entropy"] for line in lines], target)


def test_the_updates_of_a_step_stop_where_the_policy_has_gone_as_far_as_allowed():
    bandit = Bandit(learning_rate=0.1, max_kl=0.002)
    monitor = MismatchMonitor(dtype=torch.float64, on_mismatch="stop", notify=print)
    for _ in range(8):
        pulls = bandit.pull()
        before = bandit.updates
        kls = []

        class Recorded:
            updates = property(lambda self: bandit.updates)

            def update(self, samples, settings, *, check=None, kls=kls):
                metrics = bandit.update(samples, settings)
                kls.append(metrics["kl/old_current"])
                return metrics

        inner_updates(Recorded(), [pulls] * 200, bandit.settings, epochs=1, watch=monitor)
        assert len(kls) < 200
        assert bandit.updates - before == len(kls) - 1  # the last update was skipped
        assert abs(kls[-1] / 0.002 - 1) < 0.2


def updated(control, measured):
    control.update({control.metric: measured})
    return control.value


def test_ziegler_by_hand():
    control = AdaptiveKL(KLControl(target=0.1, gain=0.1), 1.0)
    assert updated(control, 0.11) == pytest.approx(1.01)  # 10 % above: 1 + 0.1 * 0.1
    assert updated(control, 5.0) == pytest.approx(1.01 * 1.02)  # clipped to 20 %
    assert updated(control, 0.0) == pytest.approx(1.01 * 1.02 * 0.98)
    with pytest.raises(ValueError, match="never leaves 0"):
        AdaptiveKL(KLControl(target=0.1), 0.0)


def test_the_learning_rate_by_hand():
    config = ControllersConfig.model_validate(
        {"learning_rate": {"target": 0.01, "gain": 0.5, "min": 0.5, "max": 2.0}}
    )
    control = AdaptiveLearningRate(config.learning_rate, 1.0)
    assert updated(control, 0.014) == pytest.approx(math.exp(-0.2))  # 40 % above, times the gain
    # by at most a factor of 1.5
    assert updated(control, 1.0) == pytest.approx(math.exp(-0.2) / 1.5)
    assert updated(control, 1.0) == 0.5  # the lower bound


def test_the_learning_rate_is_unchanged_during_warm_up():
    config = ControllersConfig(learning_rate=LearningRateControl(target=0.01, max=1.0))
    start = UpdateSettings(learning_rate=0.1)
    controls = Controllers(config, start)
    assert controls.next(start, {STEP_KL: 1.0}, is_warming_up=True) == start
    assert controls.next(start, {STEP_KL: 1.0}).learning_rate < 0.1


def test_the_entropy_weight_by_hand():
    control = AdaptiveEntropy(
        EntropyControl(target=1.0, gain=0.1, proportional_gain=0.5, min=0.001, max=1.0), 0.01
    )
    # half of the target is missing
    assert updated(control, 0.5) == pytest.approx(0.01 * math.exp(0.05 + 0.25))
    # the integral stays, the proportional part disappears
    assert updated(control, 1.0) == pytest.approx(0.01 * math.exp(0.05))
    for _ in range(100):
        updated(control, 9.0)
    assert control.value == pytest.approx(control.options.min)
    # no windup below the minimum
    assert control.integral == pytest.approx(math.log(control.options.min))


def test_a_step_without_a_measurement_leaves_everything_as_it_is():
    bandit = Bandit(kl_coef=0.1, learning_rate=1e-4)
    controls = controls_of(
        bandit, kl={"target": 0.1}, learning_rate={"target": 0.1}, entropy={"target": 1.0}
    )
    before = controls.state_dict()
    started = controls.apply(bandit.settings)
    assert controls.next(started, {"grad_norm": 0.0, "kl/current_base": math.nan}) == started
    assert controls.state_dict() == before
    assert controls.metrics() == {
        "controller/kl_coef": 0.1,
        "controller/entropy_coef": 1e-5,
        "controller/learning_rate": 1e-4,
    }


def test_controllers_go_on_from_their_state_as_if_never_stopped():
    config = {
        "kl": {"target": 0.05},
        "learning_rate": {"target": 1e-3, "max": 10.0},
        "entropy": {"target": 2.5},
    }
    straight = Bandit(kl_coef=0.1)
    whole = controls_of(straight, **config)
    controlled(straight, whole, 20)
    first = Bandit(kl_coef=0.1)
    half = controls_of(first, **config)
    controlled(first, half, 10)
    second = controls_of(Bandit(kl_coef=0.1), **config)
    second.load_state_dict(half.state_dict())
    controlled(first, second, 10)
    assert second.state_dict() == whole.state_dict()
    assert torch.equal(first.logits, straight.logits)


def test_update_settings_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        UpdateSettings().learning_rate = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("name", find_controllers())
def test_each_controller_of_the_folder_has_a_setting_a_block_and_an_exact_state(name):
    kind = find_controllers()[name]
    assert issubclass(kind, Controller)
    start = getattr(UpdateSettings(kl_coef=0.1, entropy_coef=1e-3), kind.setting)
    options = ControllersConfig.model_validate({name: {"target": 0.1}})
    control = kind(getattr(options, name), start)
    for measured in (0.3, 0.05, 0.2):
        control.update({kind.metric: measured})
    again = kind(getattr(options, name), start)
    again.load_state_dict(control.state_dict())
    for each in (control, again):
        each.update({kind.metric: 0.07})
    assert again.value == control.value != start


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["train.controllers.kl={target: 0.05}"],
            "train.algorithm.kl.coef, which is 0 and would stay 0",
        ),
        (["train.optimizer.max_kl=0.1"], "skips later updates of a step, but there is only one"),
        (
            ["train.controllers.learning_rate={target: 0.01, max: 1.0e-5}"],
            "outside of the bounds of train.controllers.learning_rate",
        ),
    ],
)
def test_a_controller_with_nothing_to_move_is_refused_at_the_start(settings, said):
    with pytest.raises(UsageError, match=said):
        resolve("guess", ["train.model.device=cpu", *settings])


def test_bounds_in_the_wrong_order_are_refused():
    with pytest.raises(ValidationError, match="above max"):
        EntropyControl(target=1.0, min=1.0, max=0.1)
