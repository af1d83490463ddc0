"""Start the test runner from its folder alone: `python path/to/hidden_test settings.json`."""

import importlib
import sys
import types
from pathlib import Path

folder = Path(__file__).resolve().parent
# Python puts the folder that it runs on sys.path; a test's `import run` must not find ours.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != folder]
# The package of the agent without its __init__, which would import the whole agent.
agent = types.ModuleType("envgym_agent")
agent.__path__ = [str(folder.parent)]
sys.modules["envgym_agent"] = agent
importlib.import_module("envgym_agent.hidden_test.run").main(sys.argv[1])
