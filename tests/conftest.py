import pytest


@pytest.hookimpl(tryfirst=True)  # before the workers' own hook, which reads the groups
def pytest_collection_modifyitems(config, items):
    """A campaign takes minutes: it runs when it is asked for, and says so when it is not.

    With several workers (`make test`), one has all that use the engine, which they share and look
    into; files stay together else, but for the commands of the docs, each of which may take a
    minute.
    """
    for item in items:
        alone = item.name if item.path.stem == "test_blocks" else item.path.stem
        item.add_marker(pytest.mark.xdist_group("engine" if "docker" in item.keywords else alone))
        if "campaign" in item.keywords and "campaign" not in config.option.markexpr:
            item.add_marker(pytest.mark.skip(reason="NOT RUN, takes minutes: make campaign"))
