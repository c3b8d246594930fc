"""Who exists, which module each actor runs, and where under the run directory they meet."""

import os
from pathlib import Path

import msgspec

from tokenreel.messages.options import EngineOptions

SUPERVISOR = "supervisor"

ENTRY_MODULES = {
    "frontend": "tokenreel.frontend.process",
    "input_processor": "tokenreel.actors.input_processor",
    "engine_core": "tokenreel.actors.engine_core",
    "worker": "tokenreel.actors.worker.process",
    "detokenizer": "tokenreel.actors.detokenizer",
}
"""Role -> module, started as `python -P -m MODULE RUN_DIR`, in the order people see them in."""

STUB_WORKER_MODULE = "tokenreel.actors.stub_worker"

ROLES = tuple(ENTRY_MODULES)

MAX_SOCKET_PATH_BYTES = 107
"""What a Unix socket's name may have on Linux."""


class AddressTooLong(OSError):
    """The temporary directory's name leaves no room for a socket's: one line for the user."""


class Topology:
    """The run directory: private to one run, it holds options.json and the sockets."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def address(self, role: str, rank: int = 0) -> str:
        """Where the inbox of `role` is bound. Raises `AddressTooLong`."""
        path = str(self.run_dir / f"{role}.{rank}")
        if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
            raise AddressTooLong(
                f"{path} is too long for a socket (at most {MAX_SOCKET_PATH_BYTES} bytes): "
                "set TMPDIR to a shorter directory"
            )
        return f"ipc://{path}"

    @property
    def options_path(self) -> Path:
        return self.run_dir / "options.json"

    @property
    def view_socket(self) -> Path:
        """Where the view of this run's journal is served for the frontend."""
        return self.run_dir / "view.sock"

    @property
    def journal_link(self) -> Path:
        """Leads to the run's journal as soon as there is one."""
        return self.run_dir / "journal"

    def link_journal(self, journal: Path) -> None:
        """Called by the core, which alone knows what the run is called."""
        self.journal_link.unlink(missing_ok=True)
        self.journal_link.symlink_to(journal.absolute())

    def write_options(self, options: EngineOptions) -> None:
        """The file may hold the API key: its owner alone can read it."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(self.options_path, flags, 0o600), "wb") as file:
            file.write(msgspec.json.encode(options))

    def read_options(self) -> EngineOptions:
        return msgspec.json.decode(self.options_path.read_bytes(), type=EngineOptions)


def entry_module(role: str, options: EngineOptions) -> str:
    if role == "worker" and options.stub_worker:
        return STUB_WORKER_MODULE
    return ENTRY_MODULES[role]


def identity(role: str, rank: int, epoch: int) -> str:
    """The name of one process on every link it has. Another process of the role has another epoch,
    so that a name is never used twice in a run."""
    return f"{role}.{rank}.{epoch}"


def role_of(sender: str) -> str:
    """The role in an identity such as `Frame.sender`."""
    return sender.partition(".")[0]
