"""Download a model from the Hugging Face hub. `huggingface_hub` caches it."""

from __future__ import annotations

from pathlib import Path

from envgym.errors import PrerequisiteError

TIMEOUT_SECONDS = 5.0
FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]


def from_hub(repo_id: str) -> Path:
    """Return the snapshot folder of a Hugging Face model.

    Raises:
        PrerequisiteError: If the hub cannot be reached, or has no such model.
    """
    from huggingface_hub import constants, snapshot_download

    offline = constants.HF_HUB_OFFLINE or not _reachable(constants.ENDPOINT)
    try:
        return Path(
            snapshot_download(
                repo_id,
                allow_patterns=FILES,
                local_files_only=offline,
                etag_timeout=TIMEOUT_SECONDS,
            )
        )
    except Exception as error:
        # The hub's client raises errors of several libraries.
        why = (
            "the hub cannot be reached and its cache does not have it"
            if offline
            else f"{type(error).__name__}: {_first_line(error)}"
        )
        raise PrerequisiteError(
            f"Hugging Face hub, '{repo_id}': {why}. Connect to the network and try again, or give "
            "a local directory."
        ) from error


def _reachable(endpoint: str) -> bool:
    """Check the hub with one short request, because its client retries for minutes when offline."""
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(
            urllib.request.Request(endpoint, method="HEAD"), timeout=TIMEOUT_SECONDS
        ).close()
    except urllib.error.HTTPError:
        # Any HTTP response means that the hub is reachable.
        return True
    except OSError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
