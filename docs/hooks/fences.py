"""MkDocs hook: remove `skip="reason"` from the info strings of fenced blocks.

The tests of the documentation read this option. The Markdown extension accepts no unknown options
and would show such a block as plain text.
"""

import re
from typing import Any

SKIP = re.compile(r'^(?P<fence>[ \t]*```\w+.*?)[ \t]+skip="[^"\n]*"', re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page without `skip` options."""
    return SKIP.sub(r"\g<fence>", markdown)
