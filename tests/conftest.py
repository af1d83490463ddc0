import os

import pytest

from envgym.secrets import forget

# Idle threads of OpenMP sleep instead of spinning, here and in subprocesses: with more workers than
# cores, spinning costs several times the computation. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist's hook, which reads the groups
def pytest_collection_modifyitems(config, items):
    """Skip campaigns and real servers unless requested, and group the tests for several workers.

    With several workers (`make test`), one worker gets all tests that use the container engine,
    because they share its state. Other tests are grouped by file, except the commands in the
    docs: each may take a minute.
    """
    for item in items:
        alone = item.name if item.path.stem == "test_blocks" else item.path.stem
        item.add_marker(pytest.mark.xdist_group("engine" if "docker" in item.keywords else alone))
        for mark in ("campaign", "servers"):
            if mark in item.keywords and mark not in config.option.markexpr:
                item.add_marker(pytest.mark.skip(reason=f"NOT RUN, takes minutes: make {mark}"))


@pytest.fixture(autouse=True)
def _forget_secrets():
    """Forget the secrets that a test has hidden, so that they do not redact texts of others."""
    yield
    forget()
