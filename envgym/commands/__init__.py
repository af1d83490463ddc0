"""Command line interface of envgym.

This folder is the registry: a file `NAME.py` that defines `run` is the command `NAME`; see
`registry.py` for the contract and for commands of other packages. This file uses no built-in names,
because the commands `list` and `eval` would shadow them.

Exit codes: 0 success, 1 failed, 2 usage error (in a YAML, an override or an argument), 3 missing
prerequisite, 130 interrupted.
"""

from __future__ import annotations

from envgym.commands.parser import build_parser, main

__all__ = ["build_parser", "main"]
