"""Names and errors of a chosen engine, for tests."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from envgym.errors import PrerequisiteError

VARIABLES = (
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_CONFIG",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "CONTAINER_HOST",
)
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def add_context(name: str, host: str, **tls: Path) -> None:
    """Write a context as `docker context create` does; `tls` holds the files ca, cert and key."""
    folder = Path(os.environ["HOME"]) / ".docker/contexts"
    key = hashlib.sha256(name.encode()).hexdigest()
    endpoint = {"Host": host, "SkipTLSVerify": False}
    (folder / "meta" / key).mkdir(parents=True)
    (folder / "meta" / key / "meta.json").write_text(
        json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}})
    )
    (folder / "tls" / key / "docker").mkdir(parents=True)
    for role, file in tls.items():
        shutil.copy(file, folder / "tls" / key / "docker" / f"{role}.pem")


def refusal(work) -> str:
    with pytest.raises(PrerequisiteError) as caught:
        work()
    return str(caught.value)
