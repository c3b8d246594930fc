"""Whether a redacted core decides as the original does, but for what stand-ins account for."""

from collections.abc import Callable
from typing import Any

import msgspec

from tokenreel.actors.core.digest import CACHE, SEQUENCES
from tokenreel.messages.ids import RequestKey
from tokenreel.tools.replay.redact.fields import FIELDS, Treatment

KeyMap = Callable[[RequestKey], RequestKey]

OF_TEXTS = (SEQUENCES, CACHE)
"""The components of a digest that cover tokens or their hashes. All others must be equal."""


def disagreement(original: Any, redacted: Any, key_of: KeyMap) -> str | None:
    """The path of the first field in which two messages, states or lists of them differ though
    they should not; None if there is none. Never a text of the original."""
    if original == redacted:
        return None
    if isinstance(original, list | tuple) and isinstance(redacted, list | tuple):
        if len(original) != len(redacted):
            return f" ({len(original)} became {len(redacted)})"
        for index, pair in enumerate(zip(original, redacted, strict=True)):
            path = disagreement(*pair, key_of)
            if path is not None:
                return f"[{index}]{path}"
        return None
    if type(original) is not type(redacted):
        return f" ({type(original).__name__} became {type(redacted).__name__})"
    if isinstance(original, msgspec.Struct):
        return _of_structs(original, redacted, key_of)
    # Numbers alone are told: people paste this line into reports, and a text may be anybody's.
    return f" ({original} became {redacted})" if isinstance(original, int) else ""


def _of_structs(original: msgspec.Struct, redacted: msgspec.Struct, key_of: KeyMap) -> str | None:
    """A field that nobody listed must be equal too: it is an effect of inputs that are listed."""
    name = type(original).__name__
    treatments = FIELDS.get(name, {})
    for field in original.__struct_fields__:
        one, other = getattr(original, field), getattr(redacted, field)
        treatment = treatments.get(field, Treatment.KEPT)
        if treatment is Treatment.DROPPED:
            continue
        if treatment is Treatment.MAPPED:
            one, other = _shape(name, field, one, key_of), _shape(name, field, other, None)
        path = disagreement(one, other, key_of)
        if path is not None:
            return f".{field}{path}"
    return None


def _shape(name: str, field: str, value: Any, key_of: KeyMap | None) -> Any:
    """What a stand-in has in common with what it stands for."""
    match name, field:
        case _, "key":
            return tuple(key_of(value) if key_of else value)
        case _, "digest":
            return [part for place, part in enumerate(value) if place not in OF_TEXTS]
        case "Sequence", "order":
            return value[1:]
        case "Snapshot", "cache":
            return [block for block, _ in value]
        case "StoppingParams", "stop_token_ids":
            return None
    if isinstance(value, list | tuple):
        return len(value)
    return bool(value) if isinstance(value, str | bytes) else None
