"""The workspace's tasks: every template of levels L0 to L3. How each is made stands in the file of its level."""

# A star on purpose: envgym collects whatever template stands in this module, and a new one must not need two entries.
from workspace_level01 import *  # noqa: F403
from workspace_level2 import *  # noqa: F403
from workspace_level3 import *  # noqa: F403
