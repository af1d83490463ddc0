import os


def pytest_collection_modifyitems(config, items):
    """Select the tests of one trap if ENVGYM_TRAP is set, for example ENVGYM_TRAP=9.

    pytest's own -m selects by marks but not by their arguments.
    """
    if wanted := os.environ.get("ENVGYM_TRAP"):
        items[:] = [
            item
            for item in items
            if int(wanted) in {mark.args[0] for mark in item.iter_markers("trap")}
        ]
