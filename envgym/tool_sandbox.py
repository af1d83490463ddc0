"""Create the sandbox for an environment's `tools:`.

Python files run in one sandbox box, and each MCP server or live API gets a sandbox of its kind. An
environment without tools also gets a box: it holds the tables and runs a task's hidden test.
"""

from __future__ import annotations

import dataclasses
import importlib.util

from envgym.errors import PrerequisiteError, SpecError
from envgym.http_client import Address
from envgym.rewards.state_names import check_names
from envgym.rewards.table_columns import Keys, primary_keys
from envgym.sandbox import App, Sandbox, Server
from envgym.sandbox.agent.work_folder import TABLE as FILES
from envgym.sandbox.backends import open_sandbox
from envgym.sandbox.hidden_files import hidden_files
from envgym.sandbox.joined import CombinedSandbox
from envgym.sandbox.mcp import McpServer, ResetCall
from envgym.sandbox.options import SandboxOptions
from envgym.secrets import redact
from envgym.spec.environment import EnvSpec
from envgym.spec.tool_sources import McpReset, McpSpec, McpTools, OpenApiTools


def open_tool_sandbox(spec: EnvSpec) -> Sandbox:
    """Return the sandbox of an environment.

    Raises:
        SpecError: If the tools and the sandbox settings do not fit together.
        PrerequisiteError: If something must be installed or started first.
    """
    app = build_app(spec)
    parts = list[Sandbox]()
    try:
        if app.tools or spec.state.files or not spec.tools:
            parts.append(open_sandbox(app, spec.sandbox))
        for source in spec.tools:
            if isinstance(source, McpTools):
                parts.append(_open_mcp(spec, source.mcp, spec.sandbox))
            elif isinstance(source, OpenApiTools):
                parts.append(_open_live(spec, source))
    except BaseException:
        for part in parts:
            part.close()
        raise
    return parts[0] if len(parts) == 1 else CombinedSandbox(parts)


def build_app(spec: EnvSpec) -> App:
    """Return the files that an environment's boxes load, and those that they must not contain.

    Raises:
        SpecError: If a live API is combined with `state.schema`.
    """
    root = spec.root.resolve()
    state = spec.state
    files = tuple(tool for tool in spec.tools if isinstance(tool, str))
    commands = [
        word for tool in spec.tools if isinstance(tool, McpTools) for word in tool.mcp.command
    ]
    needed = [*files, *commands, *filter(None, (state.schema_file, state.seed, state.files))]
    secret = [
        spec.path.name,
        *(part.source for part in spec.reward.values()),
        *filter(None, [spec.tasks.source]),
    ]
    hidden = hidden_files(root, secret=secret, needed=needed)
    is_live = any(isinstance(tool, OpenApiTools) for tool in spec.tools)
    if is_live and state.schema_file:
        raise SpecError(
            f"{spec.path}: state.schema: a live API defines its tables; "
            "remove state.schema, or remove base_url to simulate the API"
        )
    # With a live API the seed function fills copies of the API's tables, from which tasks are
    # drawn. The boxes have no tables.
    return App(
        root,
        files,
        state.schema_file,
        None if is_live else state.seed,
        state.files,
        hidden=hidden,
        watch=state.forbid,
        extra_files=tuple(spec.sandbox.files),
    )


def simulated_app(spec: EnvSpec) -> App:
    """Return the app with live APIs as simulated documents, to get their tables."""
    live = tuple(tool.openapi for tool in spec.tools if isinstance(tool, OpenApiTools))
    app = build_app(spec)
    return dataclasses.replace(app, tools=(*app.tools, *live))


def read_primary_keys(spec: EnvSpec, schema_sql: str) -> Keys:
    """Return the primary keys of all tables: of the schema, of MCP servers' dumps and of files.

    Raises:
        SpecError: If two of these have a table with the same name, or if the YAML names a table or
            column that does not exist.
    """
    keys = primary_keys(schema_sql)
    dumps = [source.mcp.keys for source in spec.tools if isinstance(source, McpTools)]
    for more in [*dumps, *([{FILES: ("path",)}] if spec.state.files else [])]:
        if shared := keys.keys() & more.keys():
            also = f" ('{FILES}' is reserved for the work folder)" if FILES in shared else ""
            raise SpecError(
                f"{spec.path}: two sources have a table named '{min(shared)}'{also}; "
                "rename one of them"
            )
        keys |= more
    check_names(spec, schema_sql)
    return keys


def _open_live(spec: EnvSpec, source: OpenApiTools) -> Sandbox:
    from envgym.sandbox.openapi.live import open_live

    return open_live(spec.root, source)


def _open_mcp(spec: EnvSpec, server: McpSpec, options: SandboxOptions) -> Sandbox:
    if importlib.util.find_spec("mcp") is None:
        raise PrerequisiteError(
            f"{spec.path}: an MCP server as tools needs the MCP SDK: pip install 'envgym[mcp]'"
        )
    from envgym.sandbox.mcp.sandbox import McpSandbox

    address = Address.of(server.url, server.headers) if server.url else None
    wanted = McpServer(
        address.url if address else _in_the_box(spec, server),
        ResetCall(server.reset.tool, server.reset.arguments)
        if isinstance(server.reset, McpReset)
        else server.reset or "restart",
        hidden=server.hidden,
        dump=server.dump,
        sessions=server.sessions or (1 if server.url else None),
        now=spec.state.clock_start.isoformat(),
        volatile=spec.state.volatile,
        headers=address.headers if address else {},
    )
    if isinstance(wanted.link, str):
        return McpSandbox(wanted, None, options)
    _check_isolation(spec, server, options)
    app = build_app(spec)
    box = App(
        app.root,
        (),
        servers=(wanted.link,),
        hidden=app.hidden,
        extra_files=app.extra_files,
    )
    return McpSandbox(wanted, open_sandbox(box, options), options)


def _in_the_box(spec: EnvSpec, server: McpSpec) -> Server:
    return Server(
        redact(" ".join(server.command)),
        server.command,
        server.env | {"ENVGYM_NOW": spec.state.clock_start.isoformat()},
    )


def _check_isolation(spec: EnvSpec, server: McpSpec, options: SandboxOptions) -> None:
    """Raise SpecError if the configured sandbox cannot run the server."""
    where = f"{spec.path}: tools: mcp: command"
    if options.backend == "none":
        raise SpecError(f"{where}: runs in a separate box; set sandbox.backend=local or docker")
    if options.level == "state":
        raise SpecError(f"{where}: needs one process per session; set sandbox.isolation=fork")
    if server.reset == "container" and options.level != "container":
        remedy = "set sandbox.isolation=container or `reset: restart`"
        raise SpecError(
            f"{where}: `reset: container` needs a new container for each episode; {remedy}"
        )


def can_hide_writes(spec: EnvSpec) -> bool:
    """Return whether tables must be compared after each call to see all writes.

    The record of a session does not cover external servers, and code of the model runs in the
    process that keeps it.
    """
    is_external = any(not isinstance(source, str) for source in spec.tools)
    return spec.sandbox.executes_code or is_external
