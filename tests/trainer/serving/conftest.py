"""A server process with a model that has learned its answers by heart, for the API's tests."""

import openai
import pytest

from tests.fakes.taught_model import served, teach


@pytest.fixture(scope="session")
def lamps(tmp_path_factory):
    """Return the folder of an adapter, inside of a folder with a run's name."""
    return teach(tmp_path_factory.mktemp("runs") / "lamps" / "adapter")


@pytest.fixture(scope="session")
def url(lamps):
    """Return the URL of a server of the adapter."""
    with served(str(lamps)) as (_, url):
        yield url


@pytest.fixture(scope="session")
def client(url):
    """Return the official client without retries, so that each error is seen."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
