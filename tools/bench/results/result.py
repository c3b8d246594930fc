"""The result file: what was measured, where, with which settings. Its schema is in
docs/benchmarks.md; fields are only ever added."""

import datetime
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tokenreel.actors.runtime.code_identity import commit, package_version
from tokenreel.tools.bench.problem import Problem
from tokenreel.tools.bench.results.figures import Figures, Spread, Tally
from tokenreel.tools.bench.results.machine import Machine, this_machine

SCHEMA = 1
MAX_RESULT_BYTES = 1 << 30
KEY_FLAG = "--api-key"
SECRET_FLAGS = (KEY_FLAG, "--header")
MASK = "***"


class BadResult(Problem):
    """A file that holds no result, or one that cannot be written: one line for the user."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """Who measured, where, when."""

    version: str
    commit: str
    began: str
    """ISO 8601, UTC."""
    command: list[str]
    machine: Machine


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """Who was measured."""

    url: str
    model: str
    flags: list[str] = []
    """Of `engine-up`, if the bench started it."""
    is_ours: bool = False
    ready_s: float | None = None


class Result(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="verb", tag=lambda name: name.lower()
):
    schema: int = SCHEMA
    label: str
    header: Header
    server: Server
    settings: dict[str, str | int | float | bool | None]
    is_interrupted: bool = False
    """It was stopped by hand: the figures are of what was finished by then."""


class Serve(Result, frozen=True, kw_only=True):
    runs: list[Figures]


class ThroughputFigures(Tally, frozen=True, kw_only=True):
    ended_s: list[float]
    """When requests had their answers, in seconds since the start: quantiles in equal steps."""


class Throughput(Result, frozen=True, kw_only=True):
    runs: list[ThroughputFigures]


class LatencyFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Of batches, each sent when the one before is answered. `latency_ms` is of whole batches."""

    batch_size: int
    num_input_tokens: int
    num_output_tokens: int
    """Of one sequence, both."""
    latency_ms: Spread
    samples_ms: list[float]
    """Of the same: quantiles in equal steps, lowest first."""
    output_tokens_per_s: float
    """Of the mean."""
    num_other_length: int = 0
    """Batches that were served, but not with as many tokens as were asked for."""
    failures: dict[str, int]


class Latency(Result, frozen=True, kw_only=True):
    runs: list[LatencyFigures]


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """One start, in seconds from the command."""

    is_cold: bool
    ready_s: float
    first_token_s: float
    actors_s: dict[str, float]
    """By actor, from its own start until it was ready."""


class StartupFigures(msgspec.Struct, frozen=True, kw_only=True):
    is_cold: bool
    ready_s: Spread
    first_token_s: Spread
    actors_s: dict[str, float]
    """Means."""


class Startup(Result, frozen=True, kw_only=True):
    runs: list[StartupFigures]
    starts: list[Start]
    failure: str | None = None
    """Of the start after these, which was the last."""


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """CPU time per output token of what cannot be left out, and the rate over all cores."""

    model_us: float
    """The model's products at the machine's rate, the prompt's share included."""
    http_us: float
    generator_us: float
    num_cores: int
    tokens_per_s: float

    @property
    def cpu_us(self) -> float:
        return self.model_us + self.http_us + self.generator_us


class OverheadFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Of one concurrency: the engine, the pipeline without the model, and the floor."""

    max_concurrency: int
    engine: Figures
    stub: Figures
    """`engine-up --stub-worker`: everything but the model."""
    http: Figures
    """The HTTP side alone, streaming chunks that are made in advance."""
    floor: Floor
    share_of_floor: float
    """The engine's tokens per second over the floor's."""
    cpu_share_of_floor: float
    """The floor's CPU time per token over what the engine and the generator took: what the share
    would be if no core was ever idle, or busy with something else."""


class Overhead(Result, frozen=True, kw_only=True):
    runs: list[OverheadFigures]
    product_rates: dict[str, float]
    """GFLOP/s of one core by the number of rows that a product has."""
    unfinished: dict[str, list[Figures]] = {}
    """Of levels that were interrupted before the engine's turn: what `http` and `stub` came to."""


AnyResult = Serve | Throughput | Latency | Startup | Overhead


def header_of(command: Sequence[str]) -> Header:
    """To be asked for before the measurement, for the sake of the load average."""
    return Header(
        version=package_version(),
        commit=commit(),
        began=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=["engine-bench", *without_secrets(command)],
        machine=this_machine(),
    )


def without_secrets(words: Sequence[str]) -> list[str]:
    """A command line with the values of those flags masked that may hold a key."""
    told: list[str] = []
    for word in words:
        flag, equals, _ = word.partition("=")
        if told and told[-1] in SECRET_FLAGS:
            told.append(MASK)
        else:
            told.append(f"{flag}={MASK}" if equals and flag in SECRET_FLAGS else word)
    return told


def write_result(path: Path, result: AnyResult) -> None:
    """Raises BadResult."""
    content = msgspec.json.format(msgspec.json.encode(result), indent=1)
    try:
        path.write_bytes(content + b"\n")
    except OSError as error:
        raise BadResult(f"{path} cannot be written: {error.strerror}") from None


def read_result(path: Path) -> AnyResult:
    """Raises BadResult."""
    try:
        if path.stat().st_size > MAX_RESULT_BYTES:
            raise BadResult(f"{path} is larger than {MAX_RESULT_BYTES} bytes")
        return _decoder.decode(path.read_bytes())
    except OSError as error:
        raise BadResult(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise BadResult(f"{path} is no result of engine-bench: {error}") from None


_decoder: msgspec.json.Decoder[AnyResult] = msgspec.json.Decoder(AnyResult)
