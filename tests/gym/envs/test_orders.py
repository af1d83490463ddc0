"""The order desk: an OpenAPI document as an environment, with rules for refunds."""

import json
import os
import sqlite3
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from envgym import ToolCall
from envgym.env import ToolWorld
from envgym.playing import Request, play_many
from envgym.policies.noop import NoopPolicy
from envgym.policies.oracle import OraclePolicy
from envgym.sandbox.agent import prepare_image
from envgym.spec.environment import load_spec
from tests.fakes.kiosk_app import call

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def world():
    world = ToolWorld(load_spec("orders", ["sandbox.backend=none"]))
    yield world
    world.close()


@pytest.fixture
def session(world):
    session = world.sandbox.open(seed=1, timeout_seconds=20)
    yield session
    session.close()


def rows(world, query: str, seed: int = 1) -> list[tuple]:
    db = sqlite3.connect(":memory:")
    db.deserialize(prepare_image(world.tasks.schema_sql, world.tasks._seed, seed))
    return db.execute(query).fetchall()


def test_its_tools_and_tables_come_from_the_document(world):
    assert len(world.tools) == 14
    assert set(world.keys) == {"customers", "products", "orders", "order_items", "refunds"}
    assert world.spec.state.schema_file is None


def test_each_level_holds_a_template_out_of_training(world):
    splits = defaultdict(list)
    for template in world.tasks.templates.values():
        splits[template.level].append(template.splits)
    assert set(splits) == {"L0", "L1", "L2"}
    assert sum(map(len, splits.values())) >= 8
    assert all(("test",) in held for held in splits.values())


def test_the_oracle_solves_every_kind_of_task_and_doing_nothing_none(world):
    for split in ("train", "val", "test"):
        requests = [Request(task, 0) for task in world.tasks.ids(split, count=28)]
        assert all(
            episode.success for episode in play_many(world.env, OraclePolicy(), requests, workers=4)
        )
        assert not any(
            episode.success for episode in play_many(world.env, NoopPolicy(), requests, workers=4)
        )


@pytest.mark.parametrize("seed", range(5))
def test_what_tasks_need_is_in_every_world(world, seed):
    assert rows(
        world,
        "SELECT count(*), count(DISTINCT customer_id) FROM orders WHERE status = 'open'",
        seed,
    ) == [(12, 12)]
    held = "SELECT order_id FROM order_items GROUP BY order_id HAVING count(*) = 1"
    assert rows(
        world, f"SELECT count(*) FROM orders WHERE status = 'delivered' AND id IN ({held})", seed
    ) == [(12,)]


def test_a_refund_has_rules_that_no_table_knows(world, session):
    (open_order,) = rows(world, "SELECT id FROM orders WHERE status = 'open' LIMIT 1")[0]
    order, paid = rows(
        world,
        """SELECT o.id, sum(i.quantity * p.price) FROM orders o
        JOIN order_items i ON i.order_id = o.id JOIN products p ON p.id = i.product_id
        WHERE status = 'delivered' AND o.id NOT IN (SELECT order_id FROM refunds)
        GROUP BY o.id""",
    )[0]
    assert (
        call(session, "refund_order", order_id="O1", amount=1, reason="late").text
        == "no order 'O1'"
    )
    assert (
        "is open; only a delivered one"
        in call(session, "refund_order", order_id=open_order, amount=1, reason="late").text
    )
    assert (
        json.loads(
            call(session, "refund_order", order_id=order, amount=paid - 5, reason="late").text
        )["id"]
        == "R105"
    )
    assert (
        call(session, "refund_order", order_id=order, amount=6, reason="late").text
        == f"only 5 can be paid back for order {order}"
    )
    assert len(json.loads(call(session, "list_refunds", order_id=order).text)) == 1


def test_the_tools_refuse_what_the_document_forbids(world):
    env = world.env()
    env.reset(options={"task": "test/take_from_open_order/0"})
    order = env.task.oracle[-1].arguments["order_id"]
    from envgym.dialects import render_call

    observation, *_ = env.step(
        render_call(ToolCall("update_order", {"id": order, "carrier": "boat"}), "pythonic")
    )
    assert (
        observation
        == 'error: carrier must be one of "post", "express", "courier", "pickup", got "boat"'
    )


@pytest.mark.slow
def test_it_trains(tmp_path):
    small = [
        "train.model=tiny",
        "train.warm_start.episodes=4",
        "train.steps=1",
        "train.rollout.groups_per_step=1",
        "train.rollout.group_size=2",
        "train.evaluation.tasks=2",
        "train.evaluation.base_tasks=2",
        "train.rollout.max_turn_tokens=8",
        "train.checks.preflight=off",
        "sandbox.backend=local",
    ]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'trainer'}"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "envgym",
            "train",
            "orders",
            *small,
            "--out",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "vllm serve" in done.stdout
