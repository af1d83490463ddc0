"""Files of a session, for tests."""

from pathlib import Path

from envgym.sandbox import App
from tests.fakes.kiosk_app import call

FOLDER = App(
    Path(__file__).parents[2] / "fakes" / "apps",
    ("folder/tools.py",),
    files="folder/world.py:lay_out",
)
PASS = "print('well done')"


def sh(session, command: str) -> str:
    return call(session, "sh", command=command).text
