"""`engine-up`: serves a model. Reads the flags, checks what can be checked, then supervises."""

import asyncio
import socket
import sys

import msgspec

from tokenreel.actors.runtime.child import API_KEY_VARIABLE, ChildPlan, plan_engine
from tokenreel.actors.runtime.console import Console
from tokenreel.actors.runtime.run_directory import RunDirectory, remove_stale_directories
from tokenreel.actors.runtime.supervisor import Supervisor, SupervisorLimits
from tokenreel.actors.runtime.topology import Topology
from tokenreel.messages.options import EngineOptions
from tokenreel.tools.up_checks import Unusable, check_files, has_chat_template, open_listener
from tokenreel.tools.up_flags import (
    USAGE_EXIT_CODE,
    Misconfigured,
    make_parser,
    options_from,
)

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")
VIEW_MODULE = "tokenreel.tools.replay"
EXAMPLE_QUESTION = "What is 17 + 25?"
EXAMPLE_PROMPT = "Once upon a time"


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code (see `engine-up --help`)."""
    try:
        return _run(arguments)
    except KeyboardInterrupt:  # Before there was anything to stop.
        return 130


def announce(options: EngineOptions) -> list[str]:
    """What is said once everything is ready."""
    url = f"http://{_url_host(ANY_ADDRESS.get(options.host, options.host))}:{options.port}"
    lines = [
        f"{options.served_model_name} is ready at http://{_url_host(options.host)}:{options.port}"
        " (Ctrl-C to stop)",
    ]
    if options.journal_dir is not None:
        lines.append(f"journals are kept in {options.journal_dir}")
    if options.debug_view:
        lines.append(f"the debug view is at {url}/debug/")
    if options.api_key is None and options.host not in LOOPBACK_HOSTS:
        lines.append(f"whoever reaches this address may use it; {API_KEY_VARIABLE} sets a key")
    return [*lines, "try:", f"  {_curl(options, url)}"]


def _run(arguments: list[str] | None) -> int:
    parsed = make_parser().parse_args(arguments)
    console = Console()
    try:
        options = options_from(parsed)
        check_files(options)
        listener = open_listener(options.host, options.port)
    except (Unusable, Misconfigured) as problem:
        console.complain(str(problem))
        return USAGE_EXIT_CODE
    # What the user asked for may have been "any port"; from here on it is a number.
    options = msgspec.structs.replace(options, port=listener.getsockname()[1])
    limits = SupervisorLimits(
        start_timeout_s=parsed.start_timeout, drain_timeout_s=options.drain_timeout_s
    )
    try:
        return asyncio.run(_serve(options, listener, console, limits))
    except OSError as error:
        console.complain(f"cannot start: {error}")
        return 1


async def _serve(
    options: EngineOptions, listener: socket.socket, console: Console, limits: SupervisorLimits
) -> int:
    remove_stale_directories()
    with RunDirectory() as run:
        topology = Topology(run.path)
        topology.write_options(options)
        companions = (_debug_view(topology),) if options.debug_view else ()
        supervisor = Supervisor(
            topology=topology,
            plans=(*plan_engine(options), *companions),
            listener=listener,
            console=console,
            announcement=announce(options),
            limits=limits,
            pins_worker=options.pin_worker,
        )
        return await supervisor.run()


def _debug_view(topology: Topology) -> ChildPlan:
    """The view of the run's own journal, which the frontend hands through."""
    what = ("view", str(topology.journal_link), "--socket", str(topology.view_socket))
    return ChildPlan("view", (sys.executable, "-P", "-m", VIEW_MODULE, *what), is_companion=True)


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _curl(options: EngineOptions, url: str) -> str:
    body: dict[str, object] = {"model": options.served_model_name}
    if has_chat_template(options):
        path = "/v1/chat/completions"
        body["messages"] = [{"role": "user", "content": EXAMPLE_QUESTION}]
    else:
        path = "/v1/completions"
        body |= {"prompt": EXAMPLE_PROMPT, "max_tokens": 32}
    key = f' -H "Authorization: Bearer ${API_KEY_VARIABLE}"' if options.api_key else ""
    text = msgspec.json.encode(body).decode()
    return f"curl {url}{path}{key} -H 'Content-Type: application/json' -d '{text}'"


if __name__ == "__main__":
    sys.exit(main())
