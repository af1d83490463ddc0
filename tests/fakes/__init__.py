"""Stand-ins that tests share: small environments, apps, models and servers."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
APPS = Path(__file__).parent / "apps"
