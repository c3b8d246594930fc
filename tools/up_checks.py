"""What can be found wrong before any process starts: the model directory, files, the port.

Every problem is one line that says what to do. Nothing here imports torch.
"""

import errno
import json
import os
import socket
from pathlib import Path

from tokenreel.messages.options import EngineOptions
from tokenreel.tools.listener import listen
from tokenreel.tools.up_flags import DEMO_MODEL

LISTEN_BACKLOG = 2048


class Unusable(Exception):
    """The engine cannot start like this: one line for the user."""


def check_files(options: EngineOptions) -> None:
    """Raises `Unusable`. Makes the journal directory if there is none yet."""
    needs_weights = options.load_format != "dummy" and not options.stub_worker
    check_model(Path(options.model), needs_weights=needs_weights)
    if options.chat_template is not None:
        _read_text(Path(options.chat_template), "--chat-template")
    if options.journal_dir is not None:
        _check_journal_dir(Path(options.journal_dir))


def check_model(model: Path, *, needs_weights: bool) -> None:
    if not model.is_dir():
        raise Unusable(_no_directory(model))
    for name in ("config.json", "tokenizer.json"):
        path = model / name
        if not path.is_file():
            raise Unusable(f"{model} is no model directory that can be served: it has no {name}")
        try:
            is_object = isinstance(json.loads(_read_text(path, "the model's")), dict)
        except ValueError as error:
            raise Unusable(f"{path} is not JSON ({error}): fetch the model again") from None
        if not is_object:
            raise Unusable(f"{path} is not a JSON object: fetch the model again")
    if needs_weights and not any(model.glob("*.safetensors")):
        raise Unusable(
            f"{model} has no *.safetensors file; fetch the weights in that format, or use "
            "--load-format dummy for random ones"
        )


def open_listener(host: str, port: int) -> socket.socket:
    """A bound and listening socket: whoever connects from now on waits for the frontend."""
    try:
        return listen(host, port, LISTEN_BACKLOG)
    except socket.gaierror as error:
        raise Unusable(f"--host {host}: {error.strerror or error}") from None
    except OSError as error:
        raise Unusable(_no_port(host, port, error)) from None


def has_chat_template(options: EngineOptions) -> bool:
    """Whether it is worth suggesting a chat to somebody who tries the model."""
    model = Path(options.model)
    if options.chat_template is not None or (model / "chat_template.jinja").is_file():
        return True
    try:
        config = json.loads((model / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("chat_template"))


def _no_directory(model: Path) -> str:
    if model == DEMO_MODEL:
        return f"the demo model is missing ({model}): install tokenreel again"
    if model.exists():
        return f"{model} is a file; MODEL is the directory that holds config.json"
    return (
        f"{model} does not exist; MODEL is a directory on this machine "
        "(`hf download NAME --local-dir DIR` fetches one)"
    )


def _no_port(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; choose another with --port, or any with --port 0"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than this user has; choose one from 1024 with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is no address of this machine"
    return f"cannot listen on {host} port {port}: {error.strerror}"


def _read_text(path: Path, whose: str) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise Unusable(f"{whose} {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Unusable(f"{whose} {path} is not UTF-8 text") from None


def _check_journal_dir(path: Path) -> None:
    advice = "choose another with --journal-dir, or run with --no-journal"
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Unusable(f"journal directory {path}: {error.strerror}; {advice}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise Unusable(f"journal directory {path} is not writable; {advice}")
