import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "gym"))  # the small shop environment that many tests use


def pytest_collection_modifyitems(config, items):
    """A campaign takes minutes: it runs when it is asked for, and says so when it is not."""
    if "campaign" not in config.option.markexpr:
        for item in items:
            if "campaign" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="NOT RUN, takes minutes: make campaign"))
