"""Tasks of text classification: all templates of levels L0 to L2, one file per kind."""

# Star imports are deliberate: envgym collects the templates of this module, so a new template is
# added in one place only.
from duplicates import *  # noqa: F403
from entailment import *  # noqa: F403
from intent import *  # noqa: F403
