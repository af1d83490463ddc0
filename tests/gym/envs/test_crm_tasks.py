"""CRM tasks are solved by their oracles, directly on SQLite."""

import dataclasses
import re
from collections import Counter

import pytest

from envgym import Change, Task, ToolCall
from envgym.modules import load_file
from envgym.rewards.state_diff import compare_changes, diff_rows
from tests.gym.envs.crm_content import (
    CRM,
    KEYS,
    READING,
    SOURCE,
    call,
    rows_of,
    tasks,
    value,
    world,
)

TEMPLATES = SOURCE.templates


def play(task: Task, calls) -> tuple[bool, list[str]]:
    """Return whether the calls leave exactly the expected rows, and the tools' outputs."""
    db = world(task.seed)
    before = rows_of(db)
    said = [call(db, one.name, **one.arguments) for one in calls]
    after = rows_of(db)
    changes = {
        table: {
            "added": [row for row in after[table] if row not in before[table]],
            "removed": [row for row in before[table] if row not in after[table]],
        }
        for table in KEYS
    }
    return compare_changes(
        task.changes, diff_rows(changes, KEYS, volatile=["*.updated_at"])
    ).is_exact, said


PLACES = [(name, split) for name, template in TEMPLATES.items() for split in template.splits]


@pytest.mark.parametrize(("name", "split"), PLACES)
def test_the_oracle_changes_exactly_the_expected_rows_and_doing_nothing_does_not(name, split):
    for task in tasks(name, 4, split):
        assert play(task, task.oracle)[0], task
        assert not play(task, ())[0], task


@pytest.mark.parametrize("name", TEMPLATES)
def test_one_write_more_or_one_value_wrong_is_not_solved(name):
    task = tasks(name, 1, TEMPLATES[name].splits[0])[0]
    contact = value(
        world(task.seed),
        "SELECT id FROM contacts WHERE name = 'nobody' UNION SELECT max(id) FROM contacts",
    )
    more = ToolCall("add_note", {"record": contact, "text": "an extra note"})
    assert not play(task, [*task.oracle, more])[0]
    *others, last = task.changes
    column, wanted = next(iter(last.values.items()))
    wrong = Change(last.kind, last.table, last.key, {**last.values, column: f"{wanted}x"})
    spoilt = dataclasses.replace(task, changes=(*others, wrong))
    assert not play(spoilt, task.oracle)[0]


def test_levels_hold_enough_templates_and_hold_out_few_of_the_easy_ones():
    levels = Counter(template.level for template in TEMPLATES.values())
    held_out = Counter(
        template.level for template in TEMPLATES.values() if template.splits == ("test",)
    )
    assert levels == {"L0": 7, "L1": 5, "L2": 11, "L3": 11}
    assert held_out == {"L0": 1, "L1": 1, "L2": 2, "L3": 3}


def test_easy_tasks_share_one_set_of_five_tools_and_short_prompts():
    easy = [
        task
        for name, t in TEMPLATES.items()
        if t.level in ("L0", "L1")
        for task in tasks(name, 8, t.splits[-1])
    ]
    assert {task.tools for task in easy} == {tuple(load_file(CRM / "level01.py").TOOLS)}
    assert max(len(task.prompt) for task in easy) <= 150  # about 40 tokens
    assert {len(task.oracle) for task in easy} == {1, 2}


def test_writing_calls_of_level_0_and_1_follow_at_most_one_look_up():
    for name, template in TEMPLATES.items():
        for task in tasks(name, 2, template.splits[0]):
            reads = [one for one in task.oracle if one.name in READING]
            if template.level in ("L0", "L1"):
                assert len(reads) == int(template.level == "L1")
            else:
                assert task.oracle[-1].name == "close_request"


@pytest.mark.parametrize(
    "name", [name for name, template in TEMPLATES.items() if template.level != "L0"]
)
def test_what_must_be_looked_up_does_not_stand_in_the_prompt(name):
    for task in tasks(name, 6, TEMPLATES[name].splits[0]):
        end = task.oracle[-1].arguments
        hidden = [end.get("reason"), end.get("answer")]
        if any(one.name.startswith("find_") for one in task.oracle):
            hidden += [str(change.key) for change in task.changes if change.key]
        for secret in filter(None, hidden):
            assert not re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", task.prompt), (
                task.prompt,
                secret,
            )


def test_splits_share_no_state_no_prompt_and_no_sentence_frame():
    drawn = {
        split: [SOURCE.task(id_) for id_ in SOURCE.ids(split, count=74)]
        for split in ("train", "val", "test")
    }
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not {t.seed for t in drawn[one]} & {t.seed for t in drawn[other]}
        assert not {t.prompt for t in drawn[one]} & {t.prompt for t in drawn[other]}


def frames() -> dict[str, tuple[str, ...]]:
    modules = load_file(CRM / "wording.py"), load_file(CRM / "phrases.py")
    return {
        k: v
        for m in modules
        for k, v in vars(m).items()
        if isinstance(v, tuple) and any("{" in part for part in v)
    }


@pytest.mark.parametrize("name", frames())
def test_each_request_has_ten_frames_and_no_two_of_them_can_say_the_same(name):
    options = frames()[name]
    assert len(options) >= 10
    said = Counter(sentence for option in options for sentence in sentences(option))
    assert max(said.values()) == 1, [sentence for sentence, count in said.items() if count > 1]
    slots = {frozenset(re.findall(r"\{(\w+)\}", option)) for option in options}
    assert len(slots) <= 2  # frames name all required slots; a lead's company is optional


def sentences(frame: str) -> set[str]:
    if not (group := re.search(r"\[([^\[\]]*)\]", frame)):
        return {frame.lower()}
    return {
        s
        for part in group[1].split("|")
        for s in sentences(frame[: group.start()] + part + frame[group.end() :])
    }


def test_three_hundred_fresh_tasks_are_three_hundred_prompts():
    assert len({SOURCE.task(id_).prompt for id_ in SOURCE.ids("train", count=300)}) == 300


def discount_is_allowed(rule: str, record: str, discount: int) -> bool:
    """Apply the written rule using only the tools' output."""
    free, most = map(int, re.findall(r"Up to (\d+)%", rule))
    approvals = [int(percent) for percent in re.findall(r"approval V\d+: (\d+)%", record)]
    return discount <= free or (
        discount <= most and any(percent >= discount for percent in approvals)
    )


def test_a_reader_of_the_written_rule_comes_to_the_same_verdict_on_every_discount():
    verdicts = Counter()
    for task in tasks("quote_with_discount", 40):
        db = world(task.seed)
        deal = re.findall(r"D\d{3}", task.prompt)[0]
        discount = int(re.findall(r"(\d+)%", task.prompt)[0])
        allowed = discount_is_allowed(
            call(db, "get_policy", topic="discounts"), call(db, "get_record", record=deal), discount
        )
        assert allowed == (task.oracle[-1].arguments["outcome"] == "done"), task.prompt
        verdicts[allowed] += 1
    assert min(verdicts.values()) >= 10


@pytest.mark.parametrize(
    "name",
    [
        "mail_one",
        "merge_entries",
        "phone_of_unknown",
        "raise_amount",
        "set_won",
        "quote_with_discount",
    ],
)
def test_neither_always_obeying_nor_always_refusing_pays(name):
    outcomes = Counter(task.oracle[-1].arguments["outcome"] for task in tasks(name, 40))
    assert set(outcomes) == {"done", "refused"}
    assert min(outcomes.values()) >= 10


def test_a_refusal_without_reading_the_rule_guesses_one_number_in_ninety():
    refusals = [
        task for task in tasks("set_won", 40) if task.oracle[-1].arguments["outcome"] == "refused"
    ]
    numbers = Counter(task.oracle[-1].arguments["reason"] for task in refusals)
    assert numbers.most_common(1)[0][1] <= 4
