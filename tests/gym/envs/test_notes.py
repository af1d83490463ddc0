"""The notes environment, a real MCP server, passes `envgym check` on tasks of each template."""

from pathlib import Path

import pytest

from envgym.evaluation.checks import check
from envgym.spec.environment import load_spec

NOTES = Path(__file__).parents[3] / "envs/notes.yaml"


@pytest.mark.campaign
def test_the_notes_pass_every_check():
    results = check(load_spec(NOTES), tasks_per_split=10)
    assert len(results) == 17
    assert not [result for result in results if not result.passed]
