"""What the recorded clients would have met under other settings.

The same requests go through the real core once more, in simulated time: first as recorded, which
tells how far the simulation can be believed, then under each variant.
"""

import msgspec

from tokenreel.tools.replay.recording.values import RecordedRequest, Recording
from tokenreel.tools.replay.what_if.arrivals import ClosedLoop, closed_loop_of, is_closed
from tokenreel.tools.replay.what_if.clients import Clients, clients_of
from tokenreel.tools.replay.what_if.figures import Figures, figures_of
from tokenreel.tools.replay.what_if.fit import Latencies, StepFit, fit_latencies, fit_steps
from tokenreel.tools.replay.what_if.simulate import SimulationFailed, place_of, simulate
from tokenreel.tools.replay.what_if.variants import Variant

RECORDED = "recorded"
SIMULATED = "simulated"


class Column(msgspec.Struct, frozen=True):
    """One run: as it was captured (`RECORDED`), simulated as it was (`SIMULATED`), or a variant.
    `run` and `counted` are what the figures were taken from."""

    name: str
    settings: dict[str, int | str | bool]
    figures: Figures
    run: Recording
    counted: list[RecordedRequest]


class Answer(msgspec.Struct, frozen=True):
    """`columns` begin with RECORDED and SIMULATED. `loop` is None if the requests come at their
    recorded times; `looks_closed` is whether the recording looks like a closed loop."""

    recording: Recording
    clients: Clients
    fit: StepFit
    latencies: Latencies
    loop: ClosedLoop | None
    looks_closed: bool
    columns: list[Column]


class NothingToAsk(ValueError):
    """The recording does not hold what the question is about."""


def what_if(recording: Recording, variants: list[Variant], closed_loop: bool | None) -> Answer:
    """`closed_loop` None: as the recording looks. Raises NoSteps, NothingToAsk,
    SimulationFailed."""
    clients = clients_of(recording)
    if not any(request.counts for request in clients.requests):
        raise NothingToAsk(
            f"none of the {len(recording.requests)} requests is recorded from its arrival to its "
            "end: there is nothing to compare"
        )
    fit = fit_steps(recording.steps)
    latencies = _latencies(recording)
    possible = closed_loop_of(recording, clients)
    if closed_loop and possible is None:
        raise NothingToAsk("no closed loop: no request came after an answer, all were in flight")
    looks_closed = is_closed(recording, possible)
    loop = possible if (looks_closed if closed_loop is None else closed_loop) else None
    columns = [_recorded(recording, clients)]
    asked = [Variant(SIMULATED, {}, recording.config), *variants]
    for variant in asked:
        columns.append(_simulated(clients, variant, fit, latencies, loop))
    return Answer(recording, clients, fit, latencies, loop, looks_closed, columns)


def _latencies(recording: Recording) -> Latencies:
    deliveries = [
        sequence.delivered_ns - sequence.finished_ns
        for request in recording.requests
        for sequence in request.sequences
        if sequence.delivered_ns is not None
    ]
    return fit_latencies(recording.steps, recording.config.pipeline_depth, deliveries)


def _recorded(recording: Recording, clients: Clients) -> Column:
    counted = [recording.requests[r.source] for r in clients.requests if r.counts]
    return Column(RECORDED, {}, figures_of(recording, counted), recording, counted)


def _simulated(
    clients: Clients,
    variant: Variant,
    fit: StepFit,
    latencies: Latencies,
    loop: ClosedLoop | None,
) -> Column:
    try:
        run = simulate(clients, variant.config, fit, latencies, loop)
    except SimulationFailed as failure:
        raise SimulationFailed(f"variant {variant.name}: {failure}") from failure
    counted = [r for r in run.requests if clients.requests[place_of(r.admit.key)].counts]
    return Column(variant.name, variant.settings, figures_of(run, counted), run, counted)


def as_builtins(answer: Answer) -> dict[str, object]:
    """What `--json` prints."""
    return {
        "run_id": answer.recording.run_id,
        "configuration": msgspec.to_builtins(answer.recording.config),
        "fit": msgspec.to_builtins(answer.fit),
        "latencies": msgspec.to_builtins(answer.latencies),
        "arrivals": "recorded" if answer.loop is None else "closed loop",
        "num_clients": None if answer.loop is None else answer.loop.num_clients,
        "num_inherited": answer.clients.num_inherited,
        "num_cut_off": answer.clients.num_cut_off,
        "num_left_out": answer.clients.num_left_out,
        "columns": [_column(column) for column in answer.columns],
    }


def _column(column: Column) -> dict[str, object]:
    return {
        "name": column.name,
        "settings": column.settings,
        "configuration": msgspec.to_builtins(column.run.config),
        "figures": msgspec.to_builtins(column.figures),
    }
