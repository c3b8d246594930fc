"""Many clients at once, a pool too small for them, some that leave: what each sees, what is left.

One engine with a tiny pool serves a storm of requests and is stopped; the tests look at what the
clients saw and at the journal.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple

import httpx
import openai
import pytest
from captured_run import (
    aborted_blocks,
    final_engine,
    meta_of,
    new_engine,
    outputs_by_seed,
    recorded,
)
from running_engine import (
    PATIENCE_S,
    SMALL_ACTORS,
    RunningEngine,
    mapped_files,
    resident_megabytes,
    verify,
)
from tokenizers import Tokenizer

from tokenreel.actors.core.invariants import check, check_quiet, check_step
from tokenreel.messages.requests import AbortRequest
from tokenreel.messages.steps import SequencePreempted, StepScheduled
from tokenreel.tools.up_flags import DEMO_MODEL

Leave = Callable[[RunningEngine, int], Coroutine[Any, Any, str]]
MODEL = "tokenreel-demo"
DEPTH = 3
FLAGS = (
    *("--num-gpu-blocks-override", "40", "--block-size", "8", "--max-num-seqs", "10"),
    *("--max-num-batched-tokens", "48", "--scheduling-policy", "priority"),
    *("--pipeline-depth", str(DEPTH), "--device", "cpu", "--batch-invariant"),
    # Fifty clients in one process are to keep up with it.
    "--no-pin-worker",
)
QUESTIONS = [
    "Tell me a story.", "What is 17 + 25?", "Count from 1 to 20.", "What is the capital of France?",
    "Tell me a story about a fox.", "What is 7 * 8?", "Hello! Who are you?", "Count from 30 to 50.",
]  # fmt: skip
PREAMBLE = "You are a friendly assistant who answers every question of the user in few words."
NUM_STREAMS = 40
NUM_SAMPLED = 6
NUM_LEAVERS = 12


class Storm(NamedTuple):
    """What the clients saw. Requests are named by their seeds; `texts` has one text per choice."""

    engine: RunningEngine
    exit_code: int
    alone: dict[int, list[str]]
    """Each request by itself, before the storm."""
    texts: dict[int, list[str]]
    left: dict[int, str]
    """What those who left had seen until then."""
    megabytes: dict[str, float]
    files: dict[str, set[str]]


@pytest.fixture(scope="module")
async def storm() -> AsyncIterator[Storm]:
    with RunningEngine(*FLAGS) as engine:
        await asyncio.to_thread(engine.wait_until_ready)
        async with engine.async_client() as client:
            alone = {seed: await ask(client, seed) for seed in range(len(QUESTIONS))}
            for seed in range(100, 100 + NUM_SAMPLED):
                alone[seed] = await ask(client, seed)
            texts, left = await weather(engine, client)
            # What was under way when the last of them left has been completed after this.
            await ask(client, 0)
        megabytes = {role: resident_megabytes(engine.pids[role]) for role in SMALL_ACTORS}
        files = {role: mapped_files(pid) for role, pid in engine.pids.items()}
        await asyncio.to_thread(engine.stop)
        yield Storm(engine, engine.process.returncode, alone, texts, left, megabytes, files)


async def weather(
    engine: RunningEngine, client: openai.AsyncOpenAI
) -> tuple[dict[int, list[str]], dict[int, str]]:
    """Everybody at once."""
    seeds = [*range(1000, 1000 + NUM_STREAMS), *range(100, 100 + NUM_SAMPLED)]
    ways: Iterator[Leave] = cycle(
        (leave_unadmitted, partial(leave_after, 1), leave_unstreamed, partial(leave_after, 9))
    )
    async with asyncio.timeout(PATIENCE_S):
        async with asyncio.TaskGroup() as group:
            stayers = {seed: group.create_task(ask(client, seed)) for seed in seeds}
            leavers = {
                seed: group.create_task(way(engine, seed))
                for seed, way in zip(range(2000, 2000 + NUM_LEAVERS), ways, strict=False)
            }
    texts = {seed: task.result() for seed, task in stayers.items()}
    return texts, {seed: task.result() for seed, task in leavers.items()}


def body_of(seed: int) -> dict[str, Any]:
    """Seeds equal modulo the number of questions ask the same; 100 to 199 sample three texts."""
    is_sampled = 100 <= seed < 200
    return {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": PREAMBLE},
            {"role": "user", "content": QUESTIONS[seed % len(QUESTIONS)]},
        ],
        "max_tokens": 200 if seed >= 2000 else 24 + 6 * (seed % len(QUESTIONS)),
        "temperature": 1 if is_sampled else 0,
        "n": 3 if is_sampled else 1,
        "seed": seed,
    }


async def ask(client: openai.AsyncOpenAI, seed: int) -> list[str]:
    """The text of every choice; every other request is streamed."""
    body = body_of(seed)
    extra = {"ignore_eos": True, "priority": seed % 3}
    if seed % 2:
        answer = await client.chat.completions.create(**body, extra_body=extra)
        assert all(choice.finish_reason == "length" for choice in answer.choices)
        return [choice.message.content or "" for choice in answer.choices]
    texts = [""] * body["n"]
    num_finished = 0
    async for chunk in await client.chat.completions.create(**body, extra_body=extra, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            num_finished += choice.finish_reason == "length"
    assert num_finished == body["n"]
    return texts


async def leave_unadmitted(engine: RunningEngine, seed: int) -> str:
    await send_and_close(engine, {**body_of(seed), "stream": True})
    return ""


async def leave_unstreamed(engine: RunningEngine, seed: int) -> str:
    await send_and_close(engine, body_of(seed))
    return ""


async def send_and_close(engine: RunningEngine, body: dict[str, Any]) -> None:
    """Stays until the engine has something else to tell about, then is gone without a word."""
    content = json.dumps(body | {"ignore_eos": True}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", engine.port)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    await writer.drain()
    async with httpx.AsyncClient(base_url=engine.url, timeout=PATIENCE_S) as http:
        await http.get("/health")
    writer.transport.abort()


async def leave_after(num_pieces: int, engine: RunningEngine, seed: int) -> str:
    pieces: list[str] = []
    async with engine.async_client() as client:
        stream = await client.chat.completions.create(
            **body_of(seed), extra_body={"ignore_eos": True}, stream=True
        )
        async for chunk in stream:
            pieces.append(chunk.choices[0].delta.content or "")
            if len(pieces) > num_pieces:  # the first says the role only
                break
        await stream.close()
    return "".join(pieces)


def test_whoever_stays_is_served_and_the_engine_leaves_as_it_should(storm: Storm) -> None:
    assert len(storm.texts) == NUM_STREAMS + NUM_SAMPLED
    assert all(text for texts in storm.texts.values() for text in texts)
    assert storm.exit_code == 0
    assert storm.engine.complaints == []
    assert storm.engine.left_behind() == []


def test_pressure_changes_no_text(storm: Storm) -> None:
    """What everybody got in the storm is what he would have got alone: logits have the same bits in
    any batch, so this holds for texts drawn from all of the vocabulary too."""
    for seed, texts in storm.texts.items():
        assert texts == storm.alone[seed if seed in storm.alone else seed % len(QUESTIONS)], seed
    assert meta_of(storm.engine.journal).facts["batch_invariant"] is True


def test_there_was_pressure(storm: Storm) -> None:
    """Sequences were preempted, and started again from blocks that were still in the cache."""
    effects = [effect for _, effects in recorded(storm.engine.journal) for effect in effects]
    assert sum(isinstance(effect, SequencePreempted) for effect in effects) > 5
    outputs = outputs_by_seed(storm.engine.journal)
    assert sum(output.num_cached_tokens > 0 for each in outputs.values() for output in each) > 20
    sizes = [len(effect.scheduled) for effect in effects if isinstance(effect, StepScheduled)]
    assert max(sizes) >= 8, "of the 10 there may be: how many come together is the clients' matter"


def test_what_a_client_saw_is_what_the_journal_holds(storm: Storm) -> None:
    tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
    outputs = outputs_by_seed(storm.engine.journal)
    for seed, texts in storm.texts.items():
        assert texts == [tokenizer.decode(output.token_ids) for output in outputs[seed]], seed
    for seed, text in storm.left.items():
        if text:  # who left before the headers may never have come in
            assert tokenizer.decode(outputs[seed][0].token_ids).startswith(text), seed


def test_whoever_leaves_is_aborted_and_frees_his_blocks_within_depth_steps(storm: Storm) -> None:
    events = [event for event, _ in recorded(storm.engine.journal)]
    assert sum(isinstance(event, AbortRequest) for event in events) > NUM_LEAVERS // 3
    aborts = aborted_blocks(storm.engine.journal)
    assert len(aborts) >= 3, "nobody left while he was running"
    assert max(abort.num_steps for abort in aborts) <= DEPTH


def test_every_invariant_held_after_every_event_and_in_the_end_nothing_is_left(
    storm: Storm,
) -> None:
    engine = new_engine(storm.engine.journal)
    for event, _ in recorded(storm.engine.journal):
        check_step(engine, engine.apply(event))
        check(engine)
    check_quiet(engine)


def test_the_quiet_engine_has_every_block_available(storm: Storm) -> None:
    statistics = final_engine(storm.engine.journal).statistics()
    assert statistics.num_free_blocks + statistics.num_evictable_blocks == 40
    assert (statistics.num_requests, statistics.num_fenced_blocks) == (0, 0)


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_the_captured_run_verifies_under_any_hash_seed(storm: Storm, hash_seed: str) -> None:
    verdict = verify(storm.engine.journal, PYTHONHASHSEED=hash_seed)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


def test_verifying_needs_neither_torch_nor_sockets(storm: Storm) -> None:
    code = (
        "import sys\n"
        "from tokenreel.tools.replay.cli import main\n"
        f"exit_code = main(['verify', {str(storm.engine.journal)!r}])\n"
        "assert not {'torch', 'zmq', 'numpy', 'transformers'} & set(sys.modules)\n"
        "sys.exit(exit_code)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=PATIENCE_S)


def test_all_but_the_worker_are_small_and_know_nothing_of_torch(storm: Storm) -> None:
    for role in SMALL_ACTORS:
        assert storm.megabytes[role] < 150, role
        assert not [file for file in storm.files[role] if "torch" in file], role
    assert [file for file in storm.files["worker"] if "torch" in file]


def test_nobody_uses_shared_memory_that_could_be_left_behind(storm: Storm) -> None:
    assert not [file for files in storm.files.values() for file in files if "/dev/shm" in file]
