"""What many tests of the sandbox layer ask for; which sandbox it is, each file says by a fixture of
its own."""

import pytest

from envgym.sandbox.containers.engine import connect
from tests.fakes.kiosk_app import need_docker


@pytest.fixture
def session(sandbox):
    session = sandbox.open(seed=7, timeout_seconds=20)
    yield session
    session.close()


@pytest.fixture
def api():
    """A client of the engine."""
    need_docker()
    api = connect()
    yield api
    api.close()
