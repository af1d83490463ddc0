"""Sandbox whose boxes are containers, for the backends `docker` and `podman`."""

from __future__ import annotations

from envgym.errors import WorldFailure
from envgym.sandbox import App, Isolation
from envgym.sandbox.archive import agent_files, pack, tar_of
from envgym.sandbox.box.sandbox import PooledSandbox
from envgym.sandbox.containers.addresses import EngineName
from envgym.sandbox.containers.create import HOME, create, needs_namespaces
from envgym.sandbox.containers.engine import (
    check_network,
    check_runtime,
    connect,
    find_engine,
)
from envgym.sandbox.containers.images import image_of
from envgym.sandbox.containers.owners import reap_quietly
from envgym.sandbox.containers.transport import ContainerTransport
from envgym.sandbox.options import SandboxOptions

LEVELS: tuple[Isolation, ...] = ("state", "fork", "namespaces", "container")
"""Isolation levels of a container engine."""
PROGRAMS = 65534
"""User id of the programs that a hidden test starts."""
SHARED: dict[Isolation, str] = {
    "state": "sessions of one box share a process",
    "fork": "sessions of one box share a user id",
    "namespaces": "sessions of one box share only its kernel and its memory limit",
    "container": "a fresh container for each episode, in namespaces if the engine permits it",
}
"""Resources that sessions share at each level, for the label."""


class ContainerSandbox(PooledSandbox):
    """Run an app in containers, one long-lived container per box.

    A container ends with its owner even if the owner is killed: stdin closes, the agent ends, the
    engine removes the container. Files are copied in (`archive.py`), not mounted.

    Args:
        app: Tools and state.
        options: Options of the sandbox.
        engine: `docker` for any engine with Docker's API, `podman` for podman only.

    Raises:
        PrerequisiteError: If there is no engine or no image.
        SpecError: If files of the app cannot be packed.
    """

    def __init__(self, app: App, options: SandboxOptions, engine: EngineName):
        self._engine_name: EngineName = engine
        found = find_engine(engine)
        self._api = found.api
        try:
            check_network(self._api, options.network)
            check_runtime(self._api, options.runtime)
            image = image_of(self._api, options, root=app.root)
        except BaseException:
            self._api.close()
            raise
        self._archive = pack(app)
        self._image = image
        network = (
            "no network"
            if options.network == "none"
            else f"the network '{options.network}' is open"
        )
        runtime = f", runtime {options.runtime}" if options.runtime else ""
        super().__init__(
            app,
            self._start_container,
            root=f"{HOME}/app",
            options=options,
            within="namespaces" if needs_namespaces(options) else options.level,
            label=f"{found.name} ({image}{runtime}), isolation {options.level}: {network}, "
            f"read-only files; {SHARED[options.level]}",
            start_check=self._start_check_container,
            check_hello={
                "users": [PROGRAMS],
                "place": "/tmp",
                "is_open": bool(options.accept_risk),
            },
        )
        reap_quietly(self._api)

    def _after_fork(self) -> None:
        # Two processes must not share one pooled connection.
        self._api = connect(self._engine_name)

    def close(self) -> None:
        super().close()
        reap_quietly(self._api)
        self._api.close()

    def _start_container(self) -> ContainerTransport:
        return self._start_with(self._archive)

    def _start_check_container(self) -> ContainerTransport:
        return self._start_with(tar_of(agent_files()), is_check=True)

    def _start_with(self, archive: bytes, *, is_check: bool = False) -> ContainerTransport:
        import docker.errors
        import requests

        try:
            container = create(self._api, self._image, self._options, is_check=is_check)
            return ContainerTransport(self._api, container, archive)
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            hint = "`envgym sandbox doctor` shows what can run here"
            raise WorldFailure(
                "sandbox_lost",
                f"the engine could not start a container: {error}. {hint}",
                stage="open",
            ) from None
