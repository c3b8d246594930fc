"""What a result remembers of its command line: every flag that could move a figure."""

import argparse
from typing import Any

LEFT_OUT = frozenset(
    {"verb", "given", "engine_flags", "model", "model_flag", "header", "disable_tqdm"}
    | {"json", "save_result", "result_dir", "result_filename", "plot", "label"}
)
"""Told elsewhere in the result, without a bearing on it, or secret."""


def settings_of(options: argparse.Namespace) -> dict[str, str | int | float | bool | None]:
    return {
        name: _plain(value) for name, value in sorted(vars(options).items()) if name not in LEFT_OUT
    }


def _plain(value: Any) -> str | int | float | bool | None:
    """JSON has no infinity, and one kind of value is easier to read than five."""
    if isinstance(value, list | tuple):
        if len(value) > 1:
            return ",".join(str(_plain(each)) for each in value)
        value = value[0] if value else None
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and value == value and abs(value) != float("inf"):
        return value
    return str(value)
