"""Fixtures for tests of the sandbox layer. Each file defines its own `sandbox` fixture."""

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
    """Client of the container engine."""
    need_docker()
    api = connect()
    yield api
    api.close()
