"""Hostile tools cannot reach the verifier, and leave nothing behind."""

import contextlib
import sys
import uuid
from dataclasses import replace

import pytest

from envgym.errors import SpecError, WorldFailure
from envgym.sandbox.archive import pack
from envgym.sandbox.backends import open_sandbox
from envgym.spec.environment import load_spec
from envgym.tool_sandbox import build_app
from tests.fakes.kiosk_app import call, failure_of, options, wait_until
from tests.gym.sandbox.hostile_pairs import (
    HOSTILE,
    WALLS,
    Pair,
    as_program,
    diff_of,
    on_host,
    pool_of,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: the proofs ask /proc")


@pytest.fixture(scope="module", params=WALLS)
def pair(request):
    pair = Pair(request.param)
    yield pair
    pair.do(pair.neighbour, "unsettle")
    pair.sandbox.close()


# --- the process of a session, and the judge that reads its state ---


@pytest.fixture
def session(pair):
    session = pair.sandbox.open(seed=7, timeout_seconds=60)
    yield session
    session.close()


# --- leftovers and damage to others ---


def test_a_program_that_leaves_its_session_ends_with_it(pair):
    session = pair.sandbox.open(seed=7, timeout_seconds=60)
    mark = f"orphan-{uuid.uuid4().hex}"
    call(session, "leave_orphan", 60, mark=mark)
    wait_until(lambda: on_host(mark))
    session.close()
    wait_until(lambda: not on_host(mark))


@pytest.mark.parametrize("kind", WALLS)
def test_a_kill_of_everything_ends_neighbours_at_level_fork_alone_and_the_box_never(kind):
    sandbox = open_sandbox(HOSTILE, options(kind, pool=pool_of(kind)))
    try:
        neighbour, attacker = (sandbox.open(seed=7, timeout_seconds=60) for _ in range(2))
        call(neighbour, "note", text="before")
        attack = lambda: as_program(attacker, "kill_all", 5)
        if kind[1] == "fork":
            assert failure_of(attack).kind == "session_ended"
            assert len(diff_of(neighbour)["notes"]["added"]) == 1
        else:
            with contextlib.suppress(
                WorldFailure, ValueError
            ):  # the attacker's own fate does not matter
                attack()
            assert call(neighbour, "note", text="after").text == "noted"
            assert len(diff_of(neighbour)["notes"]["added"]) == 2
        attacker.close()
        assert call(sandbox.open(seed=7, timeout_seconds=60), "note", text="well").text == "noted"
    finally:
        sandbox.close()


# --- packaged files ---


def test_a_file_of_tools_that_defines_tasks_as_well_is_refused_with_the_remedy():
    with pytest.raises(
        SpecError, match=r"tools.py: this file also defines tasks or rewards.*a separate file"
    ):
        pack(replace(HOSTILE, hidden=("hostile/tools.py",)))


def test_every_shipped_environment_keeps_its_tasks_and_what_only_they_import_out_of_the_box():
    assert build_app(load_spec("guess")).hidden == ("guess.yaml", "guess/tasks.py")
    hidden = build_app(load_spec("crm")).hidden
    assert {"crm/tasks.py", "crm/level3.py", "crm/parts.py"} <= set(hidden)
    assert not {"crm/names.py", "crm/world.py", "crm/reading.py"} & set(hidden), (
        "the seed function needs them"
    )
