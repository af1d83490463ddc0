"""Tasks of the CRM: all templates of levels L0 to L3, imported from one file per level."""

# Star imports are deliberate: envgym collects the templates of this module, so a new template is
# added in one place only.
from level01 import *  # noqa: F403
from level2 import *  # noqa: F403
from level3 import *  # noqa: F403
