"""Engines for the tests: real processes, real sockets, the demo model on the CPU."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import openai
import pytest
from running_engine import PATIENCE_S, RunningEngine, free_port

StartEngine = Callable[..., RunningEngine]


@pytest.fixture(scope="session", autouse=True)
def no_proxy() -> Iterator[None]:
    """Whatever the machine's way out is, these engines are here."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1")
        yield


@pytest.fixture(scope="session")
def started() -> Iterator[tuple[RunningEngine, httpx.Response]]:
    """The engine that most tests talk to, and what /health said while the model was loading.

    Its pool holds less than the model's own context.
    """
    port = free_port()
    with RunningEngine(
        *("--port", str(port), "--num-gpu-blocks-override", "64", "--max-num-seqs", "16"),
    ) as engine:
        engine.wait_for_line(" pid ")  # An actor runs: the port is bound, the model still loads.
        engine.freeze("worker")
        early = httpx.get(f"http://127.0.0.1:{port}/health", timeout=PATIENCE_S)
        engine.thaw("worker")
        engine.wait_until_ready()
        yield engine, early


@pytest.fixture(scope="session")
def engine(started: tuple[RunningEngine, httpx.Response]) -> RunningEngine:
    return started[0]


@pytest.fixture(scope="session")
def client(engine: RunningEngine) -> Iterator[openai.OpenAI]:
    with engine.client() as client:
        yield client


@pytest.fixture
def start_engine() -> Iterator[StartEngine]:
    """Starts further engines, with the given flags; they end with the test."""
    with ExitStack() as engines:

        def start(*arguments: str, **keywords: dict[str, str]) -> RunningEngine:
            engine = RunningEngine(*arguments, environment=keywords.get("environment"))
            return engines.enter_context(engine)

        yield start
