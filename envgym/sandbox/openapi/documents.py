"""Read the OpenAPI documents of an app on the host, because boxes have no YAML parser.

YAML is read by its JSON schema rules, as OpenAPI requires: `no`, `on`, `12:30` and `2026-01-05` are
text. The agent interprets the documents (`agent/openapi.py`).
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
from envgym.text.bounded_yaml import YamlLimits, load_yaml

LIMITS = YamlLimits(megabytes=32, depth=128, values=2_000_000)
"""Limits of one document. The largest published ones have about 12 MiB."""


def documents_of(app: App) -> dict[str, Any]:
    """Return every OpenAPI document of an app's tools, parsed, by file. Raises SpecError."""
    files = dict.fromkeys(tool.partition(":")[0] for tool in app.tools if is_document(tool))
    return {file: read_document(app.root / file) for file in files}


def schema_sql(app: App) -> str:
    """Return the SQL of all tables of an app, including its documents. Raises SpecError."""
    try:
        return sql_of(app.root, app.schema, documents_of(app))
    except AppError as error:
        raise SpecError(str(error)) from None


def read_document(path: Path) -> Any:
    """Read a YAML or JSON file as JSON values. Raises SpecError."""
    try:
        LIMITS.check_size(path.stat().st_size)
        # JSON is YAML. The round trip turns integer keys of responses (`200:`) into text.
        document, _ = load_yaml(path.read_text(encoding="utf-8"), loader=_Loader, limits=LIMITS)
        return json.loads(json.dumps(document, allow_nan=False))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"{path}: not a document of JSON values: {error}") from None


class _Loader(yaml.SafeLoader):
    """YAML loader for the JSON schema of YAML 1.2: https://yaml.org/spec/1.2.2/#102-json-schema"""


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
