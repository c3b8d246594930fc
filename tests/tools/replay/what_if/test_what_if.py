"""`engine-replay what-if` tells the recorded run, its simulation and the variants side by side."""

import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from capturing import CONFIG

from tokenreel.actors.core.config import LOGIC_VERSION
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.scenario import Scenario, ScenarioRequest, admit_of
from tokenreel.actors.runtime.clock import SystemClock
from tokenreel.actors.runtime.code_identity import describe_run
from tokenreel.actors.runtime.recorder import Recorder
from tokenreel.messages.codec import CoreEvent, Effect, encode, tag_of
from tokenreel.messages.journal import EFFECT, INPUT
from tokenreel.tools.exit_codes import EXIT_FAULT, EXIT_IO, EXIT_MISSING, EXIT_OK, EXIT_USAGE
from tokenreel.tools.replay.cli import main
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.recording.recording import lift
from tokenreel.tools.replay.recording.values import Recording, StepWork
from tokenreel.tools.replay.what_if.arrivals import ClosedLoop
from tokenreel.tools.replay.what_if.clients import Answer, ClientRequest, Clients, clients_of
from tokenreel.tools.replay.what_if.figures import figures_of
from tokenreel.tools.replay.what_if.fit import Latencies
from tokenreel.tools.replay.what_if.simulate import simulate
from tokenreel.tools.replay.what_if.variants import parse_variant
from tokenreel.tools.replay.what_if.what_if import NothingToAsk, what_if

US = 1000
START_NS = 5_000_000_000
NUM_CLIENTS = 6
THINK_NS = 200 * US
REQUESTS = tuple(
    ScenarioRequest(
        num_prompt_tokens=9 + number % 20,
        max_tokens=6 + number % 18,
        prefix_group=number % 2,
        num_shared_tokens=8,
        n=2 if number % 9 == 4 else 1,
        abort_turn=60 if number % 11 == 5 else None,
    )
    for number in range(60)
)
TRUE_LATENCIES = Latencies(
    turn_ns=50 * US,
    dispatch_ns=150 * US,
    turnover_ns=60 * US,
    return_ns=80 * US,
    delivery_ns=300 * US,
)


class TrueMachine:
    """How long steps take on the machine of the captured run; the fit must find it out."""

    def duration_ns(self, work: StepWork) -> int:
        wobble = (work.num_context * 7919 + work.num_tokens * 104_729) % 101 - 50
        exact = 1500 + 20 * work.num_tokens + 100 * work.num_seqs + 2 * work.num_context
        return exact * (1000 + wobble)


class StandingClock(SystemClock):
    def monotonic_ns(self) -> int:
        return START_NS


def captured(directory: Path) -> Path:
    """The journal of a run whose clients wait for their answers, on a machine that is known."""
    scenario = Scenario(config=CONFIG, requests=REQUESTS)
    requests = [
        ClientRequest(
            admit=admit_of(scenario, number),
            arrival_ns=START_NS + 300 * US * number,
            answers=[Answer([number % 97] * asked.max_tokens) for _ in range(asked.n)],
            abort_delay_ns=asked.abort_turn * US if asked.abort_turn else None,
            source=number,
            counts=True,
        )
        for number, asked in enumerate(REQUESTS)
    ]
    recorder = Recorder.create(
        directory, describe_run(CONFIG, LOGIC_VERSION), sync="none", clock=StandingClock()
    )

    def record(now_ns: int, engine: Engine, event: CoreEvent, effects: list[Effect]) -> None:
        recorder.append(tag_of(event), INPUT, encode(event), now_ns)
        for effect in effects:
            recorder.append(tag_of(effect), EFFECT, encode(effect), now_ns)
        recorder.commit()

    simulate(
        Clients(requests, CONFIG.block_size, 0, 0, 0),
        CONFIG,
        TrueMachine(),
        TRUE_LATENCIES,
        ClosedLoop(NUM_CLIENTS, (THINK_NS,) * (len(requests) - NUM_CLIENTS)),
        record,
    )
    recorder.close()
    return recorder.run_dir


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captured(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def recording(run_dir: Path) -> Recording:
    return lift(open_journal(run_dir))


def test_the_simulation_as_recorded_comes_out_as_recorded(recording: Recording) -> None:
    answer = what_if(recording, [], closed_loop=None)
    recorded, simulated = (column.figures for column in answer.columns)
    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
        now = getattr(simulated, name).mean
        assert now == pytest.approx(getattr(recorded, name).mean, rel=0.05), name
    for name in ("output_tokens_per_s", "requests_per_s", "num_steps"):
        assert getattr(simulated, name) == pytest.approx(getattr(recorded, name), rel=0.05), name
    assert simulated.num_requests == recorded.num_requests == len(REQUESTS)
    assert simulated.num_aborted == recorded.num_aborted > 0


def test_the_machine_is_found_out_from_the_journal(recording: Recording) -> None:
    answer = what_if(recording, [], closed_loop=None)
    assert answer.fit.mean_error_percent < 5
    assert answer.latencies.turnover_ns == pytest.approx(TRUE_LATENCIES.turnover_ns, rel=0.5)
    assert answer.latencies.turn_ns == TRUE_LATENCIES.turn_ns
    assert answer.latencies.return_ns == pytest.approx(TRUE_LATENCIES.return_ns, rel=0.5)
    assert answer.latencies.delivery_ns == pytest.approx(TRUE_LATENCIES.delivery_ns, rel=0.5)


def test_a_variant_is_what_its_machine_would_have_done(recording: Recording) -> None:
    """The prediction is held against the true machine under that configuration."""
    variant = parse_variant("narrow:max_num_seqs=3", CONFIG)
    answer = what_if(recording, [variant], closed_loop=None)
    clients = clients_of(recording)
    truth = simulate(clients, variant.config, TrueMachine(), TRUE_LATENCIES, answer.loop)
    true_figures = figures_of(truth, truth.requests)
    predicted = answer.columns[2].figures
    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
        true_mean = getattr(true_figures, name).mean
        assert getattr(predicted, name).mean == pytest.approx(true_mean, rel=0.1), name
    assert predicted.output_tokens_per_s < answer.columns[1].figures.output_tokens_per_s


def test_a_closed_loop_is_recognised_and_can_be_opened(recording: Recording) -> None:
    closed = what_if(recording, [], closed_loop=None)
    assert closed.looks_closed and closed.loop is not None
    assert closed.loop.num_clients == NUM_CLIENTS
    opened = what_if(recording, [], closed_loop=False)
    assert opened.loop is None
    arrivals = [request.arrival_ns for request in opened.columns[1].run.requests]
    recorded = [request.arrival_ns - recording.start_ns for request in recording.requests]
    late = [now - then for now, then in zip(sorted(arrivals), recorded, strict=True)]
    longest = max(step.ended_ns - step.began_ns for step in recording.steps)
    assert 0 <= min(late) and max(late) <= longest + 1000 * US  # the core was busy meanwhile


def test_the_table_tells_every_run_and_what_was_fitted(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = ["--variant", "narrow:max_num_seqs=3", "--depth", "1"]
    assert main(["what-if", str(run_dir), *variants]) == EXIT_OK
    output = capsys.readouterr().out
    assert all(len(line) <= 100 for line in output.splitlines())
    heading = next(line for line in output.splitlines() if "simulated" in line)
    assert heading.split() == ["recorded", "simulated", "depth=1", "narrow"]
    assert "closed loop, 6 clients" in output
    assert "a step takes" in output and "R2" in output and "tenth of the run" in output
    assert "narrow: max_num_seqs=3 (so max_in_flight=61)" in output
    for label in ("TTFT", "TPOT", "end-to-end", "output tokens/s", "preemptions", "cache hits"):
        assert any(line.startswith(label) for line in output.splitlines()), label


def test_more_variants_than_fit_the_width_get_another_table(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    options = [f"--variant=v{depth}:depth={depth}" for depth in (1, 2, 3)]
    assert main(["what-if", str(run_dir), *options]) == EXIT_OK
    output = capsys.readouterr().out
    headings = [line.split() for line in output.splitlines() if line.strip().startswith("recorded")]
    assert headings == [["recorded", "simulated", "v1", "v2"], ["recorded", "simulated", "v3"]]


def test_json_holds_what_the_table_does(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["what-if", str(run_dir), "--set", "max_num_seqs=3", "--json"]) == EXIT_OK
    answer = json.loads(capsys.readouterr().out)
    names = [column["name"] for column in answer["columns"]]
    assert names == ["recorded", "simulated", "max_num_seqs=3"]
    assert answer["columns"][2]["configuration"]["max_num_seqs"] == 3
    assert answer["columns"][2]["settings"] == {"max_num_seqs": 3}
    assert answer["arrivals"] == "closed loop" and answer["num_clients"] == NUM_CLIENTS
    assert set(answer["columns"][0]["figures"]["ttft_ms"]) == {"mean", "p50", "p99"}
    assert answer["fit"]["num_steps"] == answer["columns"][0]["figures"]["num_steps"]


def test_who_is_refused_under_a_variant_is_counted(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["what-if", str(run_dir), "--set", "max_num_seqs=1"]) == EXIT_OK
    output = capsys.readouterr().out
    row = next(line for line in output.splitlines() if line.startswith("requests refused"))
    num_pairs = sum(asked.n == 2 for asked in REQUESTS)
    assert row.split() == ["requests", "refused", "0", "0", str(num_pairs)]


def test_steps_beyond_those_recorded_are_told_to_be_extrapolated(
    recording: Recording, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["what-if", str(run_dir), "--set", "max_num_batched_tokens=90"]) == EXIT_OK
    assert "set has steps of up to" in capsys.readouterr().out


def test_a_variant_that_lives_on_steps_hardly_recorded_is_told(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenreel.tools.replay.what_if.text.FEW_STEPS", 30)
    options = ["what-if", str(run_dir), "--variant", "thin:max_num_batched_tokens=6"]
    assert main(options) == EXIT_OK
    output = " ".join(capsys.readouterr().out.split())
    told = re.search(
        r"note: thin spends (\d+) % of its time in steps of 4-7 tokens, of which the record "
        r"holds (\d+): what they take is hardly known",
        output,
    )
    assert told is not None and int(told[1]) > 20
    sizes = [step.work.num_tokens for step in lift(open_journal(run_dir)).steps]
    assert int(told[2]) == sum(4 <= size <= 7 for size in sizes)
    assert main(["what-if", str(run_dir), "--variant", "same:depth=2"]) == EXIT_OK
    assert "hardly known" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--set", "vocab_size=3"], "'vocab_size' cannot be set"),
        (["--depth", "9"], "pipeline_depth: 9 is too large"),
        (["--policy", "lifo"], "there are fcfs, priority"),
        (["--blocks", "1", "--set", "block_size=1"], "the KV pool holds one token"),
        (["--variant", "a:depth=1", "--variant", "a:depth=2"], "variant a: the name is taken"),
        (["--variant", "recorded:depth=1"], "variant recorded: the name is taken"),
        ([f"--variant=v{n}:depth=1" for n in range(17)], "17 variants; at most 16 in one call"),
        (["--plot", "out.gif"], "must end in .png, .svg or .pdf"),
        (["--plot", "/no/such/place/out.png"], "there is no directory /no/such/place"),
    ],
)
def test_a_wrong_question_is_refused_in_one_line(
    run_dir: Path, capsys: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    assert main(["what-if", str(run_dir), *options]) == EXIT_USAGE
    printed = capsys.readouterr()
    assert printed.out == "" and complaint in printed.err
    assert len(printed.err.splitlines()) == 1


def test_a_run_without_a_whole_request_is_no_base_for_a_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder.create(tmp_path, describe_run(CONFIG, LOGIC_VERSION), sync="none")
    admit = admit_of(Scenario(config=CONFIG, requests=REQUESTS), 0)
    recorder.append(tag_of(admit), INPUT, encode(admit), 1)
    recorder.commit()
    recorder.close()
    assert main(["what-if", str(recorder.run_dir)]) == EXIT_USAGE
    assert "none of the 1 requests is recorded" in capsys.readouterr().err


def test_clients_that_never_asked_twice_are_no_closed_loop(recording: Recording) -> None:
    first = msgspec.structs.replace(recording, requests=recording.requests[:NUM_CLIENTS])
    assert what_if(first, [], closed_loop=None).loop is None
    with pytest.raises(NothingToAsk, match="no closed loop"):
        what_if(first, [], closed_loop=True)


def test_a_variant_under_which_the_core_fails_is_named(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Engine, event: CoreEvent) -> list[Effect]:
        if self.config.pipeline_depth == 1:
            raise LookupError("no request 13")
        return apply(self, event)

    apply = Engine.apply
    monkeypatch.setattr(Engine, "apply", broken)
    assert main(["what-if", str(run_dir), "--variant", "shallow:depth=1"]) == EXIT_FAULT
    printed = capsys.readouterr()
    assert printed.err.startswith("engine-replay: variant shallow: after ")
    assert "LookupError" in printed.err
    assert len(printed.err.splitlines()) == 1 and not printed.out


def test_no_journal_is_told_as_everywhere(tmp_path: Path) -> None:
    assert main(["what-if", str(tmp_path)]) == EXIT_MISSING


def test_the_plot_is_drawn_and_is_the_same_every_time(run_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    arguments = ["what-if", str(run_dir), "--depth", "1", "--plot", str(path)]
    assert main(arguments) == EXIT_OK
    drawn = path.read_bytes()
    assert drawn.startswith(b"\x89PNG") and len(drawn) > 20_000
    assert main(arguments) == EXIT_OK
    assert path.read_bytes() == drawn


def test_without_matplotlib_one_line_says_what_to_install(
    run_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["what-if", str(run_dir), "--plot", str(tmp_path / "out.png")]) == EXIT_IO
    assert "pip install matplotlib" in capsys.readouterr().err


def test_nothing_heavy_is_imported_without_need(run_dir: Path) -> None:
    script = (
        "import sys; from tokenreel.tools.replay.cli import main; "
        f"main(['what-if', {str(run_dir)!r}]); "
        "found = {'torch', 'zmq', 'matplotlib'} & sys.modules.keys(); "
        "sys.exit(f'imported {found}' if found else 0)"
    )
    finished = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
