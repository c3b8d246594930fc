"""Captures the golden journals that later versions must replay: `python make_golden.py [NAME ...]`.

What lies there already stays as it is: a golden journal is worth something because its writer is
old. A new one is made when the format or what a journal may hold has changed.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import msgspec
from capturing import CONFIG, REQUESTS, capture

from tokenreel.actors.core.scenario import Scenario, ScenarioRequest
from tokenreel.actors.runtime.journal_directory import segments_of
from tokenreel.messages.journal import (
    HEADER_BYTES,
    LAST_OF_WRITE,
    PendingRecord,
    Record,
    SegmentEncoder,
)
from tokenreel.messages.journal_reader import SegmentReader
from tokenreel.messages.outputs import TokensEmitted
from tokenreel.messages.steps import StepCompleted

GOLDEN = Path(__file__).resolve().parents[1] / "tools" / "replay" / "verify" / "golden"
DEFAULTS_OF_SEQUENCE_TOKENS = [None, 0, ""]
"""Of finish reason, cached tokens and error."""


def pressure(directory: Path) -> Path:
    """A tiny pool: preemption, prefix hits, n=2, aborts, stop strings; two segments."""
    scenario = Scenario(config=CONFIG, requests=REQUESTS[:11])
    return capture(directory, events_per_segment=110, scenario=scenario)


def priority(directory: Path) -> Path:
    """Another policy, no prefix cache, one step at a time, failures of single sequences."""
    config = msgspec.structs.replace(
        CONFIG, scheduling_policy="priority", enable_prefix_caching=False, pipeline_depth=1
    )
    requests = tuple(
        ScenarioRequest(
            num_prompt_tokens=6 + 2 * number,
            max_tokens=8 + number,
            arrival=number,
            priority=-(number % 3),
            fails_at=4 if number == 2 else None,
            n=2 if number == 4 else 1,
        )
        for number in range(8)
    )
    return capture(directory, scenario=Scenario(config=config, requests=requests))


def torn(directory: Path) -> Path:
    """Killed in the middle of a write."""
    run = capture(directory, scenario=Scenario(config=CONFIG, requests=REQUESTS[11:15]))
    [segment] = segments_of(run)
    data = segment.path.read_bytes()
    records = list(SegmentReader(data, segment.path.name))
    segment.path.write_bytes(data[: records[-20].offset + 11])
    return run


def fewer_fields(directory: Path) -> Path:
    """Written before the fields that have defaults were appended to `StepCompleted` (failures) and
    to what `TokensEmitted` holds (finish reason, cached tokens, error): where they had them."""
    run = capture(directory, scenario=Scenario(config=CONFIG, requests=REQUESTS[20:23]))
    [segment] = segments_of(run)
    data = segment.path.read_bytes()
    reader = SegmentReader(data, segment.path.name)
    encoder = SegmentEncoder(reader.header)
    written = encoder.header_bytes
    for record in reader:
        flags = record.flags & ~LAST_OF_WRITE
        pending = PendingRecord(record.type, flags, _shortened(record), record.t_ns)
        written += encoder.encode([pending], record.seq)
    segment.path.write_bytes(written)
    return run


def _shortened(record: Record) -> bytes:
    if record.type == StepCompleted.__struct_config__.tag:
        [*fields, failures] = msgspec.msgpack.decode(record.payload)
        assert failures == []
        return msgspec.msgpack.encode(fields)
    if record.type == TokensEmitted.__struct_config__.tag:
        tag, sequences = msgspec.msgpack.decode(record.payload)
        return msgspec.msgpack.encode([tag, [_without_defaults(each) for each in sequences]])
    return record.payload


def _without_defaults(sequence: list[object]) -> list[object]:
    while len(sequence) > 3 and sequence[-1] == DEFAULTS_OF_SEQUENCE_TOKENS[len(sequence) - 4]:
        sequence = sequence[:-1]
    return sequence


def format_0(directory: Path) -> Path:
    """A format that this project never wrote: the version before the first."""
    run = capture(directory, scenario=Scenario(config=CONFIG, requests=REQUESTS[30:31]))
    [segment] = segments_of(run)
    data = bytearray(segment.path.read_bytes())
    data[8:10] = b"\0\0"
    data[HEADER_BYTES - 4 : HEADER_BYTES] = crc32(data[: HEADER_BYTES - 4]).to_bytes(4, "little")
    segment.path.write_bytes(data)
    return run


MAKERS: dict[str, Callable[[Path], Path]] = {
    "pressure": pressure,
    "priority": priority,
    "torn": torn,
    "fewer-fields": fewer_fields,
    "format-0": format_0,
}


def main(names: list[str]) -> None:
    for name in names or MAKERS:
        place = GOLDEN / name
        if place.exists():
            print(f"{name} is there already, and stays")
            continue
        with tempfile.TemporaryDirectory() as directory:
            run = MAKERS[name](Path(directory))
            place.mkdir(parents=True)
            for segment in segments_of(run):
                shutil.copyfile(segment.path, place / segment.path.name)
        num_bytes = sum(path.stat().st_size for path in place.iterdir())
        print(f"{name}: {num_bytes:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
