"""Where two values of the same kind first differ, as a path a person can follow."""

from typing import Any, NamedTuple

import msgspec

ABSENT = "(nothing)"


class Difference(NamedTuple):
    """`path` such as `scheduled[2].num_tokens`; empty if the two differ as a whole."""

    path: str
    recorded: Any
    replayed: Any


def first_difference(recorded: Any, replayed: Any, path: str = "") -> Difference | None:
    """None if they are equal. Structs are compared field by field, sequences item by item."""
    if type(recorded) is not type(replayed):
        return Difference(path, recorded, replayed)
    if isinstance(recorded, msgspec.Struct):
        for field in recorded.__struct_fields__:
            inner = f"{path}.{field}" if path else field
            found = first_difference(getattr(recorded, field), getattr(replayed, field), inner)
            if found is not None:
                return found
        return None
    if isinstance(recorded, list | tuple):
        return _first_difference_of_items(recorded, replayed, path)
    if isinstance(recorded, dict):
        for key in [*recorded, *(key for key in replayed if key not in recorded)]:
            inner = f"{path}[{key!r}]"
            found = first_difference(recorded.get(key, ABSENT), replayed.get(key, ABSENT), inner)
            if found is not None:
                return found
        return None
    # By representation, so that a NaN equals itself and True is not 1.
    return None if repr(recorded) == repr(replayed) else Difference(path, recorded, replayed)


def _first_difference_of_items(
    recorded: list[Any] | tuple[Any, ...], replayed: list[Any] | tuple[Any, ...], path: str
) -> Difference | None:
    for index, (one, other) in enumerate(zip(recorded, replayed, strict=False)):
        found = first_difference(one, other, f"{path}[{index}]")
        if found is not None:
            return found
    if len(recorded) == len(replayed):
        return None
    index = min(len(recorded), len(replayed))
    return Difference(
        f"{path}[{index}]",
        recorded[index] if index < len(recorded) else ABSENT,
        replayed[index] if index < len(replayed) else ABSENT,
    )
