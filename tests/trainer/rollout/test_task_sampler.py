"""Task draws are seeded, follow the configured weights, and continue exactly after a resume."""

import json
import random
from collections import Counter
from types import SimpleNamespace

import pytest

from envgym.episode import Episode
from envgym.errors import SpecError, UsageError
from envgym.tasks import stable_seed
from envgym.tasksets.templates import TemplateTaskSet
from envgym_trainer.config import TrainConfig
from envgym_trainer.rollout.plans import PlanContext, open_plan
from envgym_trainer.rollout.task_sampler import TaskSampler
from tests.fakes.shop_env import shop

TASKS = "from envgym import template\n" + "".join(
    f"@template(level={level!r}, splits={splits!r})\n"
    f"def {name}(draw):\n    return draw.task(prompt='x')\n"
    for name, level, splits in [
        ("a", "L0", ("train", "val")),
        ("b", "L0", ("train", "test")),
        ("c", "L1", ("train", "val")),
        ("d", "L2", ("train", "val")),
    ]
)


@pytest.fixture
def make(tmp_path):
    def make(*overrides, source=TASKS, **settings):
        spec = shop(tmp_path, *overrides, tasks=source)
        config = TrainConfig.model_validate({"evaluation": {"validate_every_steps": 1}} | settings)
        world = SimpleNamespace(tasks=TemplateTaskSet(spec))
        plan = open_plan(PlanContext(spec, config, world, model=None))
        return TaskSampler(spec, config, world.tasks, plan)

    return make


def episode(template="a", level="L0", success=True):
    return Episode(
        "e",
        f"train/{template}/0",
        "train",
        level,
        template,
        0,
        (),
        None,
        float(bool(success)),
        success=success,
    )


def group(template, level, *solved):
    return [episode(template, level, success) for success in solved]


def drawn(sampler, steps, *, done=None, tasks=4):
    return [
        r.task for step in steps for r in sampler.draws(step, done=done or step).requests(tasks, 1)
    ]


def template_of(task):
    return task.split("/")[1]


def test_the_same_seed_and_step_draw_the_same_tasks_and_others_draw_others(make):
    first = make()
    again = make()
    other = make(seed=1)
    drawn(again, [7, 2])  # earlier draws do not matter
    assert drawn(first, [3]) == drawn(again, [3])
    assert len(set(drawn(first, range(1, 9)))) == 32
    assert drawn(first, [3]) != drawn(other, [3])


def test_without_a_curriculum_tasks_are_drawn_as_they_always_were(make):
    sampler = make(tasks={"levels": ("L0", "L1")})
    rng = random.Random(stable_seed(0, 5, "tasks"))
    assert drawn(sampler, [5]) == [
        sampler.tasks.draw_id("train", rng, levels=("L0", "L1")) for _ in range(4)
    ]
    assert sampler.metrics(5) == {}


def test_a_group_is_one_task_with_a_seed_for_each_member_and_no_seed_comes_twice(make):
    draws = make().draws(2, done=2)
    # the second call is that of dynamic sampling
    requests = draws.requests(3, 4) + draws.requests(2, 4)
    assert [len({r.task for r in requests[n : n + 4]}) for n in range(0, 20, 4)] == [1] * 5
    assert len({r.seed for r in requests}) == 20
    assert len({r.task for r in requests}) == 5


def test_further_draws_of_a_step_do_not_depend_on_how_they_are_asked_for(make):
    sampler = make()
    together = make().draws(1, done=1).requests(6, 2)
    draws = sampler.draws(1, done=1)
    assert [r for count in (1, 3, 2) for r in draws.requests(count, 2)] == together


def test_templates_solved_sometimes_are_drawn_as_often_as_their_weights_say_over_ten_thousand_draws(
    make,
):
    # the pass rate is that of the last group
    sampler = make(tasks={"adaptive": True, "min_weight": 0.1, "pass_rate_decay": 0.0})
    sampler.observe(
        [
            group("a", "L0", True, False),
            group("b", "L0", True, True),
            group("c", "L1", False, False),
        ]
    )
    sampler.observe([group("d", "L2", True, False, False, False)])
    weights = {"a": 1.0, "b": 0.1, "c": 0.1, "d": 0.75}  # 4p(1-p) of 1/2, 1, 0, 1/4, at least 0.1
    shares = {name: weight / 1.95 for name, weight in weights.items()}
    assert sampler.shares() == pytest.approx(shares)
    assert {
        name: sampler.metrics(1)[f"curriculum/draw_probability/{name}"] for name in shares
    } == pytest.approx(shares)
    count = 10_000
    seen = Counter(template_of(task) for task in drawn(sampler, [1], tasks=count))
    chi_square = sum(
        (seen[name] - count * share) ** 2 / (count * share) for name, share in shares.items()
    )
    assert chi_square < 16.27  # 3 degrees of freedom, one in a thousand


def test_without_weights_templates_are_drawn_alike_over_ten_thousand_draws(make):
    seen = Counter(template_of(task) for task in drawn(make(), [1], tasks=10_000))
    assert sum((seen[name] - 2500) ** 2 / 2500 for name in "abcd") < 16.27


def test_void_members_and_unknown_successes_move_no_rate(make):
    sampler = make(tasks={"adaptive": True})
    sampler.observe([group("a", "L0", None, None)])
    assert sampler.rates.templates == {}
    sampler.observe([group("a", "L0", None, True)])
    assert sampler.rates.templates == pytest.approx({"a": 0.55})


def test_a_locked_level_is_never_drawn_and_opens_on_its_held_out_score(make):
    sampler = make(tasks={"unlock_at": 0.5})
    assert {template_of(task) for task in drawn(sampler, range(1, 20))} == {"a", "b"}
    assert sampler.metrics(1)["curriculum/unlocked"] == 1
    assert sampler.shares() == {"a": 0.5, "b": 0.5, "c": 0.0, "d": 0.0}
    assert sampler.validated([*group("a", "L0", True, False, False), *group("c", "L1", True)]) == []
    assert sampler.validated([*group("a", "L0", True, False), *group("c", "L1", False)]) == [
        "curriculum: level L1 is open, after 50% of validation tasks of L0"
    ]
    assert {template_of(task) for task in drawn(sampler, range(1, 20))} == {"a", "b", "c"}
    assert sampler.metrics(1)["curriculum/unlocked"] == 2


def test_weights_and_locks_work_together(make):
    sampler = make(
        tasks={"unlock_at": 0.5, "adaptive": True, "min_weight": 0.2, "pass_rate_decay": 0.0}
    )
    sampler.observe([group("a", "L0", True, True), group("b", "L0", True, False)])
    assert sampler.shares() == pytest.approx({"a": 0.2 / 1.2, "b": 1 / 1.2, "c": 0.0, "d": 0.0})
    assert {template_of(task) for task in drawn(sampler, [1], tasks=200)} == {"a", "b"}


def test_levels_open_in_the_order_in_which_they_are_listed(make):
    assert make(tasks={"unlock_at": 0.5, "levels": ("L2", "L0")}).ladder.levels == ("L2", "L0")
    assert make("tasks.levels=[L1, L0]", tasks={"unlock_at": 0.5}).ladder.levels == (
        "L1",
        "L0",
    )


def test_the_warm_start_is_shown_every_level_at_full_length(make):
    sampler = make(
        tasks={"unlock_at": 0.5, "horizon": {"start_turns": 1, "end_turns": 3, "over_steps": 4}}
    )
    requests = [r for step in range(1, 20) for r in sampler.draws(step).requests(4, 1)]
    assert {template_of(r.task) for r in requests} == set("abcd")
    assert {r.max_turns for r in requests} == {None}


def test_the_horizon_reaches_the_requests_and_grows_by_score_on_open_levels_only(make):
    sampler = make(
        tasks={"unlock_at": 0.9, "horizon": {"start_turns": 1, "end_turns": 3, "grow_at": 0.5}}
    )
    limit = lambda: {r.max_turns for r in sampler.draws(1, done=7).requests(2, 2)}
    assert (limit(), sampler.metrics(7)["curriculum/max_turns"]) == ({1}, 1)
    assert sampler.validated(
        [*group("a", "L0", True, True, False), *group("d", "L2", False, False, False, False)]
    ) == ["curriculum: episodes may take 2 turns, after 67% of validation tasks"]
    assert limit() == {2}


def scripted_run(sampler, steps):
    """Return each step's draws.

    Outcomes follow from the task's name. A validation runs every third step.
    """
    tasks = []
    for step in steps:
        ids = drawn(sampler, [step], tasks=5)
        tasks.append((ids, sampler.horizon.turns(step)))
        groups = [
            group(
                template_of(i),
                sampler.templates[template_of(i)],
                *(hash_bit(i, g) for g in range(4)),
            )
            for i in ids
        ]
        sampler.observe(groups)
        if step % 3 == 0:
            sampler.validated(
                [
                    episode(level=level, success=hash_bit(level, step))
                    for level in ("L0", "L1", "L2")
                ]
            )
    return tasks


def hash_bit(*parts):
    return stable_seed(*parts) % 5 < 3


def test_a_resumed_run_draws_what_the_run_that_was_not_stopped_draws(make):
    settings = {
        "tasks": {
            "adaptive": True,
            "unlock_at": 0.5,
            "horizon": {"start_turns": 1, "end_turns": 4, "grow_at": 0.5},
        }
    }
    whole = make(**settings)
    tasks = scripted_run(whole, range(1, 31))
    for stop in (1, 9, 17):
        first = make(**settings)
        second = make(**settings)
        scripted_run(first, range(1, stop + 1))
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert scripted_run(second, range(stop + 1, 31)) == tasks[stop:]
        assert second.state_dict() == whole.state_dict()
    forgetful = make(**settings)
    assert scripted_run(forgetful, range(18, 31)) != tasks[17:]  # the state matters


def test_a_checkpoint_from_before_there_was_a_sampler_starts_one(make):
    sampler = make(tasks={"unlock_at": 0.5})
    sampler.load_state_dict({})
    assert sampler.ladder.unlocked == 1


def test_a_checkpoint_of_other_levels_is_refused(make):
    state = make(tasks={"unlock_at": 0.5}).state_dict()
    with pytest.raises(
        UsageError,
        match=r"has levels L0, L1, L2; this run has L0, L1\. "
        r"Resume with the same train\.tasks\.levels",
    ):
        make(tasks={"unlock_at": 0.5, "levels": ("L0", "L1")}).load_state_dict(state)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"tasks": {"adaptive": True, "levels": ["L1"]}},
            r"shop.yaml: train.tasks.adaptive: needs at least two templates",
        ),
        (
            {"tasks": {"unlock_at": 0.5, "levels": ["L0"]}},
            "train.tasks.unlock_at: needs two levels, found L0",
        ),
        (
            {"tasks": {"unlock_at": 0.5}, "evaluation": {}},
            "unlock_at: needs validations.*Set train.evaluation.validate_every_steps to 1",
        ),
        (
            {
                "tasks": {"unlock_at": 0.5},
                "evaluation": {"validate_every_steps": 1, "validation_tasks": 1},
            },
            "none of the 1 validation tasks has level L1",
        ),
        (
            {
                "tasks": {"horizon": {"start_turns": 1, "end_turns": 3, "grow_at": 0.5}},
                "evaluation": {},
            },
            "horizon.grow_at: needs validations",
        ),
        (
            {"tasks": {"horizon": {"start_turns": 1, "end_turns": 9, "over_steps": 5}}},
            "horizon.end_turns: is 9, but episode.max_turns is 4",
        ),
    ],
)
def test_a_curriculum_that_could_never_act_is_refused_with_the_remedy(make, settings, told):
    with pytest.raises(SpecError, match=told):
        make(**settings)


def test_templates_without_a_level_cannot_be_unlocked(make):
    with pytest.raises(SpecError, match="template 'a' has no level"):
        make(tasks={"unlock_at": 0.5}, source=TASKS.replace("level='L0'", "level=''", 1))


def test_templates_without_a_level_can_be_weighed(make):
    sampler = make(
        tasks={"adaptive": True},
        source=TASKS.replace("'L0'", "''").replace("'L1'", "''").replace("'L2'", "''"),
    )
    assert sampler.shares() == dict.fromkeys("abcd", 0.25)
