"""Start the agent from its folder alone: `python path/to/agent`."""

import importlib.util
import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - an image may bring any Python
    sys.exit(
        "envgym's agent needs Python 3.11 or later, this is "
        f"{sys.version.split()[0]}. Use another sandbox.image."
    )

folder = Path(__file__).resolve().parent
# Python puts the folder that it runs on sys.path; an app's `import app` must not find ours.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != folder]
spec = importlib.util.spec_from_file_location("envgym_agent", folder / "__init__.py")
package = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
sys.modules["envgym_agent"] = package
spec.loader.exec_module(package)  # type: ignore[union-attr]
if sys.argv[1:] == ["--why-not-isolated"]:
    print(importlib.import_module("envgym_agent.private_box").why_not())
else:
    importlib.import_module("envgym_agent.serve").main()
