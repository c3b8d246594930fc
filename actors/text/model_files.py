"""Reads the small files of a model directory; what is missing or broken becomes one clear line."""

import os
from pathlib import Path
from typing import Any

import msgspec

MAX_FILE_BYTES = 256 << 20
"""The largest tokenizer.json known is some 35 MB."""


class ModelFilesError(Exception):
    """The model directory lacks something, or holds something unusable: one line for a person."""


def read_bytes(path: Path) -> bytes:
    """Raises `ModelFilesError` if the file is missing, unreadable or absurdly large."""
    try:
        with path.open("rb") as file:
            if (size := os.fstat(file.fileno()).st_size) > MAX_FILE_BYTES:
                raise ModelFilesError(f"{path} has {size} bytes (at most {MAX_FILE_BYTES})")
            return file.read()
    except OSError as error:
        raise ModelFilesError(f"cannot read {path}: {error.strerror or error}") from error


def read_text(path: Path) -> str:
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise ModelFilesError(f"{path} is not UTF-8 text: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in an optional file: empty if there is no such file."""
    if not path.exists():
        return {}
    try:
        content = msgspec.json.decode(read_bytes(path))
    except msgspec.MsgspecError as error:
        raise ModelFilesError(f"{path} is not valid JSON: {error}; download it again") from error
    if not isinstance(content, dict):
        raise ModelFilesError(f"{path} should hold a JSON object; download it again")
    return content
