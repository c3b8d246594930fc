"""A small captured run, an independent account of it, and the application on it."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from capturing import capture

from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.engine import Engine
from tokenreel.frontend.host_check import HostCheck
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.steps import StepBegan
from tokenreel.tools.replay.core_code import CoreCode, installed_core
from tokenreel.tools.replay.reading.events import recorded_events
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.view.app import Api, make_app
from tokenreel.tools.replay.view.recorded import Recorded
from tokenreel.tools.replay.view.step_state import step_state

DIVERGES_AT = 60


@pytest.fixture(scope="session")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture(tmp_path_factory.mktemp("view"), events_per_segment=150)


@pytest.fixture(scope="session")
def states(journal: Path) -> dict[int, dict[str, Any]]:
    """The state at every step, by one replay from the first event to the last."""
    from capturing import CONFIG

    engine = Engine(CONFIG)
    found = {}
    for recorded in recorded_events(open_journal(journal)):
        effects = engine.apply(recorded.event)
        if isinstance(recorded.event, StepBegan) and len(effects) > 1:
            found[int(recorded.event.step_id)] = step_state(engine, effects)
    return found


@pytest.fixture(scope="session")
def recorded(journal: Path) -> Recorded:
    return Recorded(journal, installed_core())


class OtherEngine(Engine):
    """Counts otherwise from one step on, as a changed core might."""

    def apply(self, event: CoreEvent) -> list[Effect]:
        if isinstance(event, StepBegan) and event.step_id == DIVERGES_AT:
            self.num_ignored += 1
        return super().apply(event)


@pytest.fixture(scope="session")
def other_code() -> CoreCode:
    return installed_core()._replace(
        create=OtherEngine,
        restore=OtherEngine.restore,
        configuration=CoreConfig,
        source_hash=b"another core's..",
    )


OpenPage = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def page(recorded: Recorded) -> AsyncIterator[httpx.AsyncClient]:
    app = make_app(Api(lambda: recorded), HostCheck())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever the machine's way out is, what is tested is here."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    yield
