"""The code of an engine core, as the replay asks it: the installed one, or one under test."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import msgspec

from tokenreel.actors.core.config import LOGIC_VERSION, CoreConfig
from tokenreel.actors.core.digest import COMPONENTS
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.runtime.code_identity import source_hash
from tokenreel.messages.codec import CoreEvent, Effect


class Core(Protocol):
    """What verify asks of an engine core."""

    def apply(self, event: CoreEvent) -> list[Effect]: ...

    def snapshot(self) -> bytes: ...


class CoreCode(NamedTuple):
    """The code that is asked whether it decides alike. `configuration` is the struct type that
    META's configuration is read into; `create` and `restore` build a core from one."""

    configuration: type[msgspec.Struct]
    create: Callable[[Any], Core]
    restore: Callable[[Any, bytes], Core]
    components: tuple[str, ...]
    logic_version: int
    source_hash: bytes


def installed_core() -> CoreCode:
    """The core that is installed beside this tool."""
    return CoreCode(
        configuration=CoreConfig,
        create=Engine,
        restore=Engine.restore,
        components=COMPONENTS,
        logic_version=LOGIC_VERSION,
        source_hash=source_hash(),
    )
