"""Short soak test. `benchmarks/soak.py` is the long one."""

import pytest

from benchmarks.soak import APP, Held, episode, grown, soak
from envgym.sandbox.backends import open_sandbox
from tests.fakes.kiosk_app import options

SHORT = {"boxes": 2, "sessions": 8, "recycle": {"episodes": 30}}


@pytest.mark.campaign
@pytest.mark.docker
@pytest.mark.parametrize("level", ["fork", "namespaces"])
def test_sixteen_sessions_on_two_replaced_boxes_see_their_own_marks_and_nothing_grows(
    level,
):
    sandbox = open_sandbox(APP, options(("docker", level), pool=SHORT))
    try:
        rows, troubles = soak(sandbox, episodes=200, sessions=16)
    finally:
        sandbox.close()
    assert troubles == []
    assert [row["episodes"] for row in rows] == list(range(20, 201, 20))


def test_the_soak_sees_what_sessions_of_one_process_share():
    sandbox = open_sandbox(APP, options(("local", "state")))
    try:
        places = [episode(sandbox, number) for number in range(2)]
    finally:
        sandbox.close()
    assert set(places[1]) == {"environment", "memory", "files"}


def test_growth_is_what_the_second_half_holds_more_of_and_a_little_memory_is_none():
    before = Held(30, 69, 0, 4, 50.0)
    after = Held(31, 69, 0, 4, 59.0)
    assert grown([before] * 2 + [after] * 2) == ["descriptors"]
    assert grown([after] * 2 + [before] * 2) == []
