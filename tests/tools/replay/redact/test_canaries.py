"""Nothing that a client, a user or a machine put into a journal is found in the redacted one.

Words and tokens are planted wherever there is room for them, and looked for in every shape that
they could have survived in. Each is first found in the original: the search can see them.
"""

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from conversing import CONFIG, Asked, Conversation, admit_of

from tokenreel.actors.core.config import LOGIC_VERSION
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.runtime.code_identity import describe_run
from tokenreel.messages.block_hash import cache_root
from tokenreel.messages.codec import encode
from tokenreel.messages.ids import RequestKey, StepId
from tokenreel.messages.journal import CORE_FAILED, IGNORABLE, INPUT, LOGPROBS
from tokenreel.messages.journal_meta import CoreFailed, decode_meta, encode_core_failed, encode_meta
from tokenreel.messages.logprobs import SequenceLogprobs, encode_logprobs
from tokenreel.messages.requests import AbortRequest
from tokenreel.messages.sampling import SamplingParams, TextParams
from tokenreel.messages.steps import StepBegan
from tokenreel.tools.replay.core_code import installed_core
from tokenreel.tools.replay.reading.journal import open_journal
from tokenreel.tools.replay.reading.writing import Capture, Identity, RunWriter
from tokenreel.tools.replay.redact.redact import redact

UNKNOWN_TYPE = 4095
BIAS = 1.5
MIN_SHAPE_BYTES = 6
"""Shorter ones are found by chance."""

WORDS = {
    "stop string": "Stop-String-Canary",
    "worker's failure": "Worker-Failure-Canary",
    "core's failure": "Core-Failure-Canary",
    "traceback": "/home/traceback-canary/core.py",
    "model name": "served-model-canary",
    "model path": "/srv/model-path-canary/weights",
    "host": "host-canary.example",
    "commit": "c0ffee00canary00commit",
    "python": "3.99-canary",
    "run id": "run-id-canary",
    "unknown record": "Unknown-Record-Canary",
    "user": "User-Canary@example.org",
    "api key": "sk-Api-Key-Canary",
    "lora": "Lora-Name-Canary",
    "logprob": "Logprob-Canary",
    "cache salt": "Cache-Salt-Canary",
}
PROMPT = [20_000 + 37 * place for place in range(11)]
OUTPUT = [31_000 + 41 * place for place in range(8)]
TOKENS = {
    "prompt": PROMPT,
    "output": OUTPUT,
    "prompt tail": [45_001, 45_102, 45_203],
    "stop ids": [46_001, 46_102, 46_203],
    "biased ids": [47_001, 47_102, 47_203],
    "likely ids": [48_001, 48_102, 48_203],
    "refused prompt": [61_001, 61_102, 61_203],
}
NUMBERS = {"seed": 0xA1B2C3D4E5F60718, "meta's seed": 0x0102A3B4C5D6E7F8}
ROOT = cache_root(b"model", b"tokenizer", WORDS["cache salt"])


class FailingEngine(Engine):
    def apply(self, event):  # type: ignore[no-untyped-def]
        if isinstance(event, StepBegan) and event.step_id == 99:
            raise LookupError("nothing of anybody's")
        return super().apply(event)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """All bytes of a journal full of canaries, and of what redaction made of it."""
    directory = tmp_path_factory.mktemp(WORDS["run id"])
    run = _plant(directory / WORDS["run id"])
    out = directory / "out"
    code = installed_core()._replace(create=FailingEngine, restore=FailingEngine.restore)
    redact(open_journal(run), out, code)
    return _bytes_of(run), _bytes_of(out)


@pytest.mark.parametrize("name", sorted(WORDS))
def test_no_word_is_left(runs: tuple[bytes, bytes], name: str) -> None:
    before, after = runs
    shapes = list(_shapes_of_text(WORDS[name]))

    if name != "cache salt":  # journals hold what it was hashed into
        assert any(shape in before for shape in shapes)
    assert not [shape for shape in shapes if shape in after]


@pytest.mark.parametrize("name", sorted(TOKENS))
def test_no_two_tokens_are_left_together(runs: tuple[bytes, bytes], name: str) -> None:
    before, after = runs
    tokens = TOKENS[name]
    parts = [tokens, *(tokens[place : place + 2] for place in range(len(tokens) - 1))]
    shapes = [shape for part in parts for shape in _shapes_of_tokens(part)]

    assert any(shape in before for shape in shapes)
    assert not [shape for shape in shapes if shape in after]


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_no_number_is_left(runs: tuple[bytes, bytes], name: str) -> None:
    before, after = runs
    shapes = list(_shapes_of_number(NUMBERS[name]))

    assert any(shape in before for shape in shapes)
    assert not [shape for shape in shapes if shape in after]


def test_no_hash_of_a_text_is_left(runs: tuple[bytes, bytes]) -> None:
    """Whoever guesses a prompt could hash it, and compare."""
    before, after = runs
    asked = Asked(prompt=PROMPT, salt=WORDS["cache salt"])
    for link in [ROOT, *admit_of(asked, 0, CONFIG).block_hashes]:
        assert link in before
        assert not [shape for shape in _shapes_of_bytes(link) if shape in after]


def test_no_key_is_left(runs: tuple[bytes, bytes]) -> None:
    before, after = runs
    key = msgspec.msgpack.encode(RequestKey(3, 1000))
    assert key in before and key not in after


# What is planted.


def _plant(run: Path) -> Path:
    sampling = SamplingParams(
        temperature=0.123456789,
        seed=NUMBERS["seed"],
        logit_bias=tuple((token, BIAS) for token in TOKENS["biased ids"]),
        stop_token_ids=tuple(TOKENS["stop ids"]),
        num_logprobs=3,
    )
    text = TextParams(stop=(WORDS["stop string"],), prompt_tail=tuple(TOKENS["prompt tail"]))
    asked = [
        Asked(
            prompt=PROMPT,
            outputs=OUTPUT,
            salt=WORDS["cache salt"],
            stop_token_ids=tuple(TOKENS["stop ids"]),
            sampling=sampling,
            text=text,
            n=2,
        ),
        Asked(prompt=[*PROMPT, 5], fails_at=2, failure=WORDS["worker's failure"], arrival=3),
        Asked(prompt=TOKENS["refused prompt"], arrival=4, block_hashes=[]),
        Asked(prompt=[*PROMPT, *OUTPUT[:6]], outputs=OUTPUT, arrival=14, salt=WORDS["cache salt"]),
    ]
    engine = FailingEngine(CONFIG)
    with RunWriter(run, _meta(), Identity(WORDS["run id"])) as writer:
        conversation = Conversation(engine, asked, Capture(writer, events_per_segment=20))
        conversation.play()
        t_ns = 10**12
        _plant_records(writer, t_ns)
        engine.apply(AbortRequest(RequestKey(3, 77_000)))
        admit = admit_of(Asked(prompt=[1, 2, 3]), 10, CONFIG)
        writer.write(t_ns, admit, engine.apply(admit))
        writer.append(4, INPUT, encode(StepBegan(StepId(99))), t_ns)
        failure = CoreFailed(
            "LookupError", "nothing of anybody's", WORDS["traceback"] + WORDS["core's failure"]
        )
        writer.append(CORE_FAILED, 0, encode_core_failed(failure), t_ns)
    return run


def _meta() -> bytes:
    facts = {
        "served_model_name": WORDS["model name"],
        "model_path": WORDS["model path"],
        "device": WORDS["host"],
    }
    meta = decode_meta(describe_run(CONFIG, LOGIC_VERSION, facts, {"seed": NUMBERS["meta's seed"]}))
    return encode_meta(
        msgspec.structs.replace(meta, commit=WORDS["commit"], python=WORDS["python"])
    )


def _plant_records(writer: RunWriter, t_ns: int) -> None:
    """What stands beside the messages."""
    likely = TOKENS["likely ids"]
    entry = SequenceLogprobs(1, [-0.5], [likely], [[-0.5] * len(likely)])  # type: ignore[arg-type]
    attachment = encode_logprobs([entry]) + WORDS["logprob"].encode()
    writer.append(LOGPROBS, IGNORABLE, attachment, t_ns)
    writer.append(UNKNOWN_TYPE, IGNORABLE, WORDS["unknown record"].encode("utf-16-le"), t_ns)
    # A later version's abort, with fields that this one does not know.
    unknown = [WORDS["user"], WORDS["api key"], {"lora": WORDS["lora"]}]
    abort = msgspec.msgpack.encode([3, [3, 77_000], *unknown])
    writer.append(3, INPUT, abort, t_ns)
    writer.commit()


def _bytes_of(run: Path) -> bytes:
    names = " ".join(path.name for path in run.iterdir()).encode()
    return names + b"".join(path.read_bytes() for path in sorted(run.iterdir()))


# In which shapes it is looked for.


def _shapes_of_text(text: str) -> Iterator[bytes]:
    for plain in (text.encode(), text.encode("utf-16-le"), text.encode("utf-16-be")):
        yield from _shapes_of_bytes(plain)
    yield text[::-1].encode()
    yield text.lower().encode()
    yield text.upper().encode()


def _shapes_of_bytes(plain: bytes) -> Iterator[bytes]:
    yield plain
    yield plain.hex().encode()
    yield plain.hex().upper().encode()
    for shift in range(3):  # base64 depends on what stands before: the inner part that does not
        encoded = base64.b64encode(bytes(shift) + plain)
        inner = encoded[4 * (shift > 0) : -4]
        if len(inner) >= MIN_SHAPE_BYTES:
            yield inner
            yield inner.translate(bytes.maketrans(b"+/", b"-_"))


def _shapes_of_tokens(token_ids: list[int]) -> Iterator[bytes]:
    for layout in "<H", ">H", "<I", ">I", "<Q", ">Q":
        if layout[1] != "H" or max(token_ids) < 1 << 16:
            packed = b"".join(struct.pack(layout, token_id) for token_id in token_ids)
            yield packed
            yield from _shapes_of_bytes(packed)
    yield b"".join(msgspec.msgpack.encode(token_id) for token_id in token_ids)
    yield b"".join(msgspec.msgpack.encode((token_id, BIAS)) for token_id in token_ids)
    for separator in (",", ", ", " ", "\n"):
        yield separator.join(map(str, token_ids)).encode()
    yield json.dumps(token_ids).encode()


def _shapes_of_number(number: int) -> Iterator[bytes]:
    for layout in "<Q", ">Q":
        yield from _shapes_of_bytes(struct.pack(layout, number))
    yield str(number).encode()
    yield hex(number)[2:].encode()
