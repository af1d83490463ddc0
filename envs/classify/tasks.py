"""Tasks of text classification: all templates of levels L0 to L2, one file per kind."""

# Star imports are deliberate: envgym collects the templates of this module, so a new template is
# added in one place only.
from classify_duplicates import *  # noqa: F403
from classify_entailment import *  # noqa: F403
from classify_intent import *  # noqa: F403
