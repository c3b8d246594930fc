"""Other settings for a recorded run, as a person writes them: `wide:max_num_seqs=64,blocks=2000`.

They are named and bounded as the flags of `engine-up`, and what it would refuse is refused here.
"""

import argparse
from collections.abc import Callable, Iterable

import msgspec

from tokenreel.actors.core.config import ConfigError, CoreConfig, fitted
from tokenreel.actors.core.policy import POLICIES
from tokenreel.tools import up_values

MAX_VARIANTS = 16
MAX_NAME_CHARS = 16


class VariantError(ValueError):
    """One line that says what is wrong with a variant, and what would be right."""


class Variant(msgspec.Struct, frozen=True):
    """`settings` as given, by their full names; `config` is what the core is told."""

    name: str
    settings: dict[str, int | str | bool]
    config: CoreConfig


def _switch(text: str) -> bool:
    words = {"true": True, "on": True, "yes": True, "1": True}
    words |= {"false": False, "off": False, "no": False, "0": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither on nor off")
    return words[text.lower()]


def _policy(text: str) -> str:
    if text not in POLICIES:
        raise argparse.ArgumentTypeError(f"{text!r} is no policy; there are {', '.join(POLICIES)}")
    return text


SETTINGS: dict[str, Callable[[str], int | str | bool]] = {
    "max_num_seqs": up_values.integer(1, up_values.MAX_NUM_SEQS),
    "max_num_batched_tokens": up_values.integer(1, up_values.MAX_BATCHED_TOKENS),
    "max_num_queued_reqs": up_values.integer(0, up_values.MAX_QUEUED_REQS),
    "scheduling_policy": _policy,
    "pipeline_depth": up_values.integer(1, up_values.MAX_PIPELINE_DEPTH),
    "num_blocks": up_values.integer(1, up_values.MAX_NUM_BLOCKS),
    "block_size": up_values.block_size,
    "max_model_len": up_values.integer(1),
    "enable_prefix_caching": _switch,
}
"""What can be set, and how its value is read."""

SHORT_NAMES = {
    "blocks": "num_blocks",
    "num_gpu_blocks_override": "num_blocks",
    "policy": "scheduling_policy",
    "depth": "pipeline_depth",
    "prefix_caching": "enable_prefix_caching",
}


def parse_variant(text: str, recorded: CoreConfig) -> Variant:
    """`NAME:KEY=VALUE,KEY=VALUE`. Raises VariantError."""
    name, colon, settings = text.partition(":")
    if not colon or not name.strip():
        raise VariantError(
            f"--variant {text!r}: write NAME:KEY=VALUE,KEY=VALUE, such as wide:max_num_seqs=64"
        )
    return make_variant(name.strip(), settings.split(","), recorded)


def make_variant(name: str, pairs: Iterable[str], recorded: CoreConfig) -> Variant:
    """`pairs` are KEY=VALUE; what they do not name stays as recorded. Raises VariantError."""
    if len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise VariantError(f"variant {name!r}: a name has at most {MAX_NAME_CHARS} characters")
    settings: dict[str, int | str | bool] = {}
    for pair in pairs:
        key, value = _setting(name, pair)
        if settings.setdefault(key, value) != value:
            raise VariantError(f"variant {name}: {key} is set twice")
    try:
        return Variant(name, settings, fitted(_configured(recorded, settings)))
    except ConfigError as error:
        raise VariantError(f"variant {name}: {error}") from None


def name_of_settings(pairs: list[str]) -> str:
    """How a variant without a name is called: by its setting, if there is one and it is short."""
    if len(pairs) > 1:
        return "set"
    key, _, value = pairs[0].replace(" ", "").partition("=")
    short = next((short for short, full in SHORT_NAMES.items() if full == key), key)
    name = f"{short}={value}"
    return name if len(name) <= MAX_NAME_CHARS else "set"


def _setting(name: str, pair: str) -> tuple[str, int | str | bool]:
    key, equals, text = (part.strip() for part in pair.partition("="))
    if not equals:
        raise VariantError(f"variant {name}: {pair.strip()!r} is not KEY=VALUE")
    key = key.lstrip("-").replace("-", "_")
    key = SHORT_NAMES.get(key, key)
    if key not in SETTINGS:
        raise VariantError(
            f"variant {name}: {key!r} cannot be set; what can: {', '.join(SETTINGS)}"
            f" (short: {', '.join(s for s in SHORT_NAMES if len(s) < len(SHORT_NAMES[s]))})"
        )
    try:
        return key, SETTINGS[key](text)
    except argparse.ArgumentTypeError as error:
        raise VariantError(f"variant {name}: {key}: {error}") from None


def _configured(recorded: CoreConfig, settings: dict[str, int | str | bool]) -> CoreConfig:
    """As `engine-up` would: the queue keeps its length when more may run, and the memory for KV
    its size when blocks are cut otherwise."""
    changes: dict[str, int | str | bool] = dict(settings)
    num_queued = changes.pop("max_num_queued_reqs", recorded.max_in_flight - recorded.max_num_seqs)
    num_seqs = changes.get("max_num_seqs", recorded.max_num_seqs)
    changes["max_in_flight"] = int(num_seqs) + int(num_queued)
    if "block_size" in changes and "num_blocks" not in changes:
        num_slots = recorded.num_blocks * recorded.block_size
        changes["num_blocks"] = num_slots // int(changes["block_size"])
    return msgspec.structs.replace(recorded, **changes)
