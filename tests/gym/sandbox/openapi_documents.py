"""OpenAPI documents of tests."""

import pytest

from envgym.errors import SpecError
from tests.fakes.openapi_apps import (
    tools_of,
)


def refused(folder, document, **more) -> str:
    with pytest.raises(SpecError) as caught:
        tools_of(folder, document, **more)
    return str(caught.value)
