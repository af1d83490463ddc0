"""The handbook: answers must be correct, read and cited; splits share nothing."""

import re
from pathlib import Path

import pytest

from envgym.dialects import render_call
from envgym.env import ToolWorld
from envgym.errors import SpecError
from envgym.evaluation.checks.fixture import CheckFixture
from envgym.evaluation.checks.grader import wrong_field
from envgym.messages import ToolCall
from envgym.playing import Request, play_many
from envgym.policies.noop import NoopPolicy
from envgym.policies.oracle import OraclePolicy
from envgym.policies.scripted import ScriptedPolicy
from envgym.spec.environment import load_spec
from envgym.tasks import SPLITS

KB = Path(__file__).parents[3] / "envs" / "kb-qa.yaml"
KINDS = 10
"""Templates of the test split."""


@pytest.fixture(scope="module")
def world():
    world = ToolWorld(load_spec(KB))
    yield world
    world.close()


@pytest.fixture
def env(world):
    env = world.env()
    yield env
    env.close()


def tasks(world, split, count=40, levels=()):
    return [world.tasks.task(id_) for id_ in world.tasks.ids(split, count=count, levels=levels)]


def solved(world, policy, split="test", count=KINDS * 4):
    episodes = play_many(
        world.env,
        policy,
        [Request(id_, 0) for id_ in world.tasks.ids(split, count=count)],
        workers=1,
    )
    return [bool(episode.success) for episode in episodes]


def play(env, task, *said):
    """Return the environment's last result for these calls and texts."""
    env.reset(options={"task": task.id})
    return [
        env.step(render_call(item, "pythonic") if isinstance(item, ToolCall) else item)
        for item in said
    ][-1]


def test_each_level_holds_a_template_out_of_training(world):
    templates = world.tasks.templates.values()
    assert len(templates) == KINDS
    for level in ("L0", "L1", "L2"):
        assert ("test",) in [template.splits for template in templates if template.level == level]


@pytest.mark.parametrize("split", SPLITS)
def test_the_oracle_solves_every_kind_and_doing_nothing_earns_nothing(world, split):
    assert all(solved(world, OraclePolicy("pythonic"), split, 20))
    assert not any(solved(world, NoopPolicy(), split, 20))


def test_the_first_hit_of_a_name_is_its_own_section(env, world):
    for task in tasks(world, "test"):
        for call, opened in zip(task.oracle[::2], task.oracle[1::2], strict=True):
            observation, *_ = play(env, task, call)
            assert (
                observation.splitlines()[0]
                == f"{opened.arguments['section']} {call.arguments['query']}"
            )


def test_a_search_shows_titles_only_so_no_answer_is_seen_unopened(env, world):
    for task in tasks(world, "test", levels=("L0", "L1")):
        told = "\n".join(play(env, task, call)[0] for call in task.oracle[::2])
        assert not any(
            re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", told)
            for answer in task.extra["answers"]
        )


def test_the_right_answer_without_opening_its_section_is_not_solved(env, world):
    for task in tasks(world, "test", KINDS):
        *_, info = play(env, task, task.final)
        assert not info["success"]
        assert info["reward_parts"]["answer_exact"] == 1.0
        assert info["reward_parts"]["cites"] == 0.0


def test_a_second_hop_needs_both_sections(env, world):
    for task in tasks(world, "test", 6, levels=("L1",)):
        first, second = task.extra["sources"]
        *_, info = play(
            env, task, *task.oracle[2:], task.final
        )  # the first section was never opened
        assert (info["success"], info["reward_parts"]["cites"]) == (False, 0.5)
        *_, info = play(env, task, *task.oracle, task.final.replace(f"[{first}] ", ""))
        assert not info["success"]
        assert info["reward_parts"]["cites"] == pytest.approx(2 / 3)


def test_a_wrong_answer_with_the_right_source_is_not_solved(env, world):
    task = tasks(world, "test", 1, levels=("L0",))[0]
    *_, info = play(env, task, *task.oracle, f"something else [{task.extra['sources'][0]}]")
    assert (info["success"], info["reward_parts"]["cites"], info["reward_parts"]["answer_f1"]) == (
        False,
        1.0,
        0.0,
    )


def test_always_declining_solves_nothing_where_the_section_was_not_read(world):
    assert not any(solved(world, ScriptedPolicy(["Not in the handbook"])))
    assert not any(solved(world, ScriptedPolicy(["Not in the handbook [H000]"])))


def test_who_opens_the_first_hit_and_always_declines_solves_the_gaps_of_one_hop_and_no_more(world):
    def declines(task, turn):
        if turn < 2:
            return render_call(task.oracle[turn], "pythonic")
        return f"Not in the handbook [{task.extra['sources'][0]}]"

    assert (
        sum(solved(world, ScriptedPolicy(declines))) == 4 * 3
    )  # three of ten kinds of test tasks have no answer


def test_where_the_handbook_is_silent_an_invented_answer_is_wrong(env, world):
    for task in tasks(world, "test", 4, levels=("L2",)):
        cited = " ".join(f"[{section}]" for section in task.extra["sources"])
        assert not play(env, task, *task.oracle, f"4711 {cited}")[-1]["success"]
        assert play(env, task, *task.oracle, f"not in the handbook. {cited}")[-1]["success"]


def test_where_the_handbook_speaks_declining_is_wrong(env, world):
    for task in tasks(world, "test", 4, levels=("L0", "L1")):
        cited = " ".join(f"[{section}]" for section in task.extra["sources"])
        assert not play(env, task, *task.oracle, f"Not in the handbook {cited}")[-1]["success"]


def test_a_section_says_what_the_truth_says_and_is_silent_where_it_is(world):
    for task in tasks(world, "train", 42):
        db = world.tasks.tables(task.seed)
        texts = dict(db.execute("SELECT id, body FROM sections"))
        facts = db.execute("SELECT section, attribute, value FROM facts").fetchall()
        assert len(texts) == 27
        for section, attribute, value in facts:
            stated = (
                re.search(rf"(?<!\w){attribute}(?!\w)", texts[section], re.IGNORECASE) is not None
            )
            assert stated == (value is not None)
            assert value is None or value in texts[section]


def test_a_question_without_answer_is_worded_like_any_other(world):
    def masked(task):
        attributes = {
            row[0] for row in world.tasks.tables(task.seed).execute("SELECT attribute FROM facts")
        }
        frame = re.sub(
            r"\b[A-Z]\w+ [A-Z]\w+\b|\b[A-Z]\w+ office\b",
            "NAME",
            task.prompt[0].lower() + task.prompt[1:],
        )
        return re.sub("|".join(sorted(attributes, key=len, reverse=True)), "WHAT", frame)

    spoken = {masked(task) for task in tasks(world, "train", 120, levels=("L0",))}
    silent = {
        masked(task)
        for task in tasks(world, "train", 120, levels=("L2",))
        if task.template != "gap_of_runner"
    }
    assert silent == spoken


def test_splits_share_neither_names_nor_wording_nor_sections(world):
    words = {
        split: {word for task in tasks(world, split, 50) for word in names_in(world, task)}
        for split in SPLITS
    }
    assert not words["train"] & (words["val"] | words["test"])
    assert not words["val"] & words["test"]
    wording = world.tasks.templates["person_fact"].make.__globals__["wording"]
    for frames in (
        wording.STATES,
        wording.ASKS,
        wording.RUN_BY,
        wording.KEPT_BY,
        wording.BASED_IN,
        wording.RUNNER,
        wording.BASE,
    ):
        shares = [set(wording.own(frames, split)) for split in SPLITS]
        assert sum(map(len, shares)) == len(set(frames)) == len(set.union(*shares))


def names_in(world, task):
    """Return the title words of a task's sections, except generic ones (office, machine)."""
    db = world.tasks.tables(task.seed)
    titles = [
        db.execute("SELECT title FROM sections WHERE id = ?", (id_,)).fetchone()[0]
        for id_ in task.extra["sources"]
    ]
    return {word for title in titles for word in title.split()} - {"office"}


def test_the_tools_refuse_politely(env, world):
    task = tasks(world, "test", 1)[0]
    assert (
        play(env, task, ToolCall("open_section", {"section": "H000"}))[0]
        == "error: no section 'H000'"
    )
    assert (
        play(env, task, ToolCall("search", {"query": "..."}))[0] == "error: the query holds no word"
    )
    assert play(env, task, ToolCall("search", {"query": "zzz"}))[0] == "nothing found"


def test_the_same_seed_writes_the_same_handbook(world):
    def dump(seed):
        return [
            world.tasks.tables(seed).execute(f"SELECT * FROM {table}").fetchall()
            for table in ("sections", "facts", "links")
        ]

    assert dump(7) == dump(7)
    assert dump(7) != dump(8)


def test_the_check_finds_a_reward_to_which_the_answer_is_all_one():
    for part, passed in (("answer_cited", True), ("valid_calls", False)):
        options = [] if passed else [f"reward.solved={{from: {part}}}"]
        world = ToolWorld(load_spec(KB, options))
        bench = CheckFixture(
            world, {"test": [world.tasks.task(id_) for id_ in world.tasks.ids("test", count=KINDS)]}
        )
        result = wrong_field(bench)
        assert result.passed == passed, result.detail
        assert passed or "though it answered" in result.detail
        world.close()


def test_a_part_that_is_not_there_is_told():
    with pytest.raises(SpecError, match="no part 'answer_cite', did you mean 'answer_cite"):
        ToolWorld(load_spec(KB, ["reward.solved.from=answer_cite"]))
