"""Reads the OpenAPI documents of an app on the host: boxes have no YAML.

YAML is read as OpenAPI asks, by the JSON schema ruleset: `no`, `on`, `12:30` and `2026-01-05` are text.
Left out: what a document means, which the agent says (`agent/openapi.py`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from envgym.errors import SpecError
from envgym.sandbox import App
from envgym.sandbox.agent import AppError, is_document
from envgym.sandbox.agent import schema_sql as sql_of


def documents_of(app: App) -> dict[str, Any]:
    """File -> parsed document, of every OpenAPI document in an app's tools. Raises SpecError."""
    files = dict.fromkeys(tool.partition(":")[0] for tool in app.tools if is_document(tool))
    return {file: read_document(app.root / file) for file in files}


def schema_sql(app: App) -> str:
    """The SQL of all tables of an app, those of its documents included. Raises SpecError."""
    try:
        return sql_of(app.root, app.schema, documents_of(app))
    except AppError as error:
        raise SpecError(str(error)) from None


def read_document(path: Path) -> Any:
    """A YAML or JSON file as JSON values. Raises SpecError."""
    try:
        # YAML holds JSON; the round trip makes keys of responses (`200:`) text, and finds what contains itself.
        return json.loads(
            json.dumps(yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader), allow_nan=False)
        )
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"{path}: not a document of JSON values: {error}") from None


class _Loader(yaml.SafeLoader):
    """YAML 1.2's JSON schema ruleset: only these are no text. https://yaml.org/spec/1.2.2/#102-json-schema"""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"null|~|", ["n", "~", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"-?(0|[1-9]\d*)", list("-0123456789")),
    ("float", r"-?(0|[1-9]\d*)(\.\d*)?([eE][-+]?\d+)?", list("-0123456789")),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^({_pattern})$"), _first
    )
