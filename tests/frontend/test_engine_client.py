"""The frontend's side of the engine, without HTTP: credits, order, loss, and who hears of it."""

import asyncio
from typing import Any

import pytest

from tokenreel.actors.runtime.channels import ChannelFull, FrameTooLarge
from tokenreel.frontend import engine_client
from tokenreel.frontend.engine_call import (
    CallerGone,
    Choice,
    EngineOverloaded,
    EngineUnavailable,
    RequestFailed,
    RequestRefused,
)
from tokenreel.frontend.engine_client import EngineClient, Prompt
from tokenreel.messages.ids import RequestKey, SeqId
from tokenreel.messages.lifecycle import EngineFacts, Shutdown, SystemReady
from tokenreel.messages.outputs import TextChunk, TextEmitted, TokenLogprob
from tokenreel.messages.requests import (
    AbortRequest,
    RequestAdmitted,
    RequestFinished,
    RequestOptions,
    RequestRejected,
    SubmitRequest,
)
from tokenreel.messages.sampling import FinishReason, TextParams

FACTS = EngineFacts(100, 4, 3, 10, 16, 1000, b"")


class RecordingLink:
    """Keeps what is sent; refuses what `error` says, from the `room`-th message on."""

    def __init__(self) -> None:
        self.submitted: list[SubmitRequest] = []
        self.aborted: list[RequestKey] = []
        self.error: Exception | None = None
        self.room = 0

    def submit(self, request: SubmitRequest) -> None:
        if self.error is not None and len(self.submitted) >= self.room:
            raise self.error
        self.submitted.append(request)

    def abort(self, request: AbortRequest) -> None:
        if isinstance(self.error, ChannelFull):
            raise self.error
        self.aborted.append(request.key)


@pytest.fixture
def link() -> RecordingLink:
    return RecordingLink()


@pytest.fixture
async def client(link: RecordingLink) -> EngineClient:
    made = EngineClient(link, asyncio.get_running_loop(), 7, max_pending_chunks=4)
    made.on_message(FACTS)
    made.on_message(SystemReady())
    return made


def submit(client: EngineClient, num_prompts: int = 1, n: int = 1, stream: bool = True) -> Any:
    prompts = [Prompt(text="a")] * num_prompts
    return client.submit(prompts, RequestOptions(n=n), is_streaming=stream)


def admit(client: EngineClient, key: RequestKey, num_prompt_tokens: int = 3) -> None:
    client.on_message(RequestAdmitted(key, (SeqId(1),), num_prompt_tokens, TextParams()))


def text(client: EngineClient, key: RequestKey, offset: int, text: str, **fields: Any) -> None:
    num_tokens = fields.pop("num_tokens", offset + len(text))
    choice = fields.pop("choice", 0)
    client.on_message(TextEmitted([TextChunk(key, choice, offset, text, num_tokens, **fields)]))


async def texts(call: Any) -> str:
    return "".join([chunk.text for _, chunk in await call.next_chunks()])


async def test_keys_are_never_used_twice(client: EngineClient, link: RecordingLink) -> None:
    for _ in range(5):
        submit(client).close()
        client.on_message(RequestFinished(link.submitted[-1].key))
    assert [request.key for request in link.submitted] == [
        RequestKey(7, number) for number in range(1, 6)
    ]


async def test_text_may_overtake_the_admission(client: EngineClient, link: RecordingLink) -> None:
    call = submit(client)
    (request,) = link.submitted
    text(client, request.key, 0, "ab")
    admit(client, request.key)
    await call.admitted()
    assert await texts(call) == "ab"
    assert call.num_prompt_tokens == 3
    call.close()


async def test_the_last_text_may_come_after_the_end(
    client: EngineClient, link: RecordingLink
) -> None:
    call = submit(client)
    (request,) = link.submitted
    admit(client, request.key)
    client.on_message(RequestFinished(request.key))
    assert client.statistics().num_in_flight == 0, "the credit is back"
    text(client, request.key, 0, "ab", finish_reason=FinishReason.STOP)
    assert await texts(call) == "ab"
    assert await call.next_chunks() == []
    call.close()
    assert link.aborted == []


async def test_text_that_never_comes_is_a_failure(
    client: EngineClient, link: RecordingLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_client, "LAST_TEXT_TIMEOUT_S", 0.0)
    call = submit(client)
    (request,) = link.submitted
    admit(client, request.key)
    client.on_message(RequestFinished(request.key))
    with pytest.raises(RequestFailed, match="lost"):
        await call.next_chunks()
    call.close()


async def test_repeated_text_is_taken_once(client: EngineClient, link: RecordingLink) -> None:
    call = submit(client)
    (request,) = link.submitted
    text(client, request.key, 0, "abc")
    text(client, request.key, 0, "abc")
    text(client, request.key, 1, "bcd")
    assert await texts(call) == "abcd"
    assert call.num_completion_tokens == 4
    call.close()


async def test_logprobs_of_repeated_text_are_taken_once(
    client: EngineClient, link: RecordingLink
) -> None:
    entries = [TokenLogprob(letter, 0.0, letter.encode(), []) for letter in "abcd"]
    call = submit(client)
    (request,) = link.submitted
    text(client, request.key, 0, "abc", logprobs=entries[:3])
    text(client, request.key, 1, "bcd", logprobs=entries[1:])
    chunks = await call.next_chunks()
    assert [entry.token for _, chunk in chunks for entry in chunk.logprobs] == list("abcd")
    call.close()


async def test_a_gap_in_the_text_ends_the_request(
    client: EngineClient, link: RecordingLink
) -> None:
    call = submit(client)
    (request,) = link.submitted
    text(client, request.key, 0, "ab")
    text(client, request.key, 3, "d")
    assert await texts(call) == "ab"
    with pytest.raises(RequestFailed, match="lost"):
        await call.next_chunks()
    assert link.aborted == [request.key]
    call.close()


async def test_what_concerns_nobody_is_counted(client: EngineClient, link: RecordingLink) -> None:
    call = submit(client)
    (request,) = link.submitted
    strangers = [RequestKey(7, 99), RequestKey(8, request.key.number)]
    for key in strangers:
        admit(client, key)
        text(client, key, 0, "a")
        client.on_message(RequestFinished(key))
        client.on_message(RequestRejected(key, 400, "code", "message"))
    text(client, request.key, 0, "a", choice=1)
    text(client, request.key, 0, "a", choice=-1)
    text(client, request.key, 0, "a", finish_reason=FinishReason.STOP)
    text(client, request.key, 1, "b")
    client.on_message(Shutdown())
    assert client.statistics().num_stray == 2 * 4 + 4
    assert await texts(call) == "a"
    call.close()
    client.on_message(RequestFinished(request.key))
    client.on_message(RequestFinished(request.key))
    assert client.statistics().num_in_flight == 0


async def test_an_end_told_twice_returns_one_credit(
    client: EngineClient, link: RecordingLink
) -> None:
    calls = [submit(client) for _ in range(2)]
    for _ in range(3):
        client.on_message(RequestFinished(link.submitted[0].key))
    client.on_message(RequestRejected(link.submitted[0].key, 400, "code", "message"))
    assert client.statistics().num_in_flight == 1
    for call in calls:
        call.close()


async def test_credits_are_claimed_all_or_none(client: EngineClient, link: RecordingLink) -> None:
    call = submit(client, num_prompts=2)
    with pytest.raises(EngineOverloaded, match="at most 3"):
        submit(client, num_prompts=2)
    assert len(link.submitted) == 2
    with pytest.raises(RequestRefused):
        submit(client, num_prompts=4)
    submit(client).close()
    call.close()


async def test_a_link_that_fills_up_halfway_aborts_what_has_gone(
    client: EngineClient, link: RecordingLink
) -> None:
    link.error, link.room = ChannelFull("full"), 2
    with pytest.raises(EngineOverloaded):
        submit(client, num_prompts=3)
    assert client.statistics().num_in_flight == 2
    assert client.statistics().num_open_calls == 0
    assert link.aborted == [], "that link is full too"
    link.error = None
    while len(link.aborted) < 2:
        await asyncio.sleep(0)
    assert link.aborted == [request.key for request in link.submitted]


async def test_a_request_too_large_for_a_message_is_refused(
    client: EngineClient, link: RecordingLink
) -> None:
    link.error = FrameTooLarge("too large")
    with pytest.raises(RequestRefused) as caught:
        submit(client)
    assert caught.value.status == 413
    assert client.statistics().num_in_flight == 0


async def test_before_it_is_ready_nobody_is_served(link: RecordingLink) -> None:
    client = EngineClient(link, asyncio.get_running_loop(), 7)
    with pytest.raises(EngineUnavailable):
        submit(client)
    client.on_message(SystemReady())
    with pytest.raises(EngineUnavailable):
        submit(client)
    client.on_message(FACTS)
    submit(client).close()


async def test_one_abort_per_request(client: EngineClient, link: RecordingLink) -> None:
    call = submit(client, num_prompts=2)
    call.cancel()
    call.cancel()
    with pytest.raises(CallerGone):
        await call.admitted()
    call.close()
    call.close()
    assert link.aborted == [request.key for request in link.submitted]


async def test_a_slow_caller_is_cut_at_the_limit_per_choice(
    client: EngineClient, link: RecordingLink
) -> None:
    call = submit(client, n=2)
    (request,) = link.submitted
    for i in range(8):
        text(client, request.key, i // 2, "x", choice=i % 2)
    assert link.aborted == []
    text(client, request.key, 4, "x")
    assert link.aborted == [request.key]
    with pytest.raises(RequestFailed, match="more than 8 chunks"):
        await call.next_chunks()
    call.close()


async def test_chunks_are_taken_as_they_come_while_the_caller_waits(
    client: EngineClient, link: RecordingLink
) -> None:
    """Those before it waits, those that are declined, what comes behind one of them, and the last
    come back to the caller, all of them in order."""
    call = submit(client)
    (request,) = link.submitted
    taken: list[str] = []
    declined = {"d"}

    def take_now(choice: Choice, chunk: TextChunk) -> bool:
        if chunk.text in declined:
            return False
        taken.append(chunk.text)
        return True

    async def read() -> list[str]:
        while chunks := await call.next_chunks(take_now):
            taken.extend(f"[{chunk.text}]" for _, chunk in chunks)
        return taken

    text(client, request.key, 0, "a")
    reading = asyncio.ensure_future(read())
    await asyncio.sleep(0)
    for offset, letter in enumerate("bcdef", 1):
        text(client, request.key, offset, letter)
        if letter == "e":
            await asyncio.sleep(0)
    text(client, request.key, 6, "g", finish_reason=FinishReason.LENGTH)
    assert await reading == ["[a]", "b", "c", "[d]", "[e]", "f", "[g]"]
    assert call.num_completion_tokens == 7
    call.close()
    assert link.aborted == []


async def test_a_caller_of_the_whole_answer_is_never_slow(
    client: EngineClient, link: RecordingLink
) -> None:
    call = submit(client, stream=False)
    (request,) = link.submitted
    admit(client, request.key)
    for i in range(100):
        text(client, request.key, i, "x")
    text(client, request.key, 100, "", finish_reason=FinishReason.LENGTH)
    chunks = await call.all_chunks()
    assert "".join(chunk.text for _, chunk in chunks) == "x" * 100
    call.close()
    assert link.aborted == []


async def test_an_abort_from_the_engine_is_a_failure(
    client: EngineClient, link: RecordingLink
) -> None:
    call = submit(client, stream=False)
    text(client, link.submitted[0].key, 0, "", finish_reason=FinishReason.ABORT)
    with pytest.raises(RequestFailed, match="ended the request early"):
        await call.all_chunks()
    call.close()


async def test_cached_tokens_count_once_per_prompt(
    client: EngineClient, link: RecordingLink
) -> None:
    call = submit(client, num_prompts=2, n=2)
    for request in link.submitted:
        for choice in range(2):
            text(client, request.key, 0, "x", choice=choice, num_cached_tokens=16)
    assert call.num_cached_tokens == 32
    call.close()


async def test_a_request_nested_too_deeply_for_a_message_is_refused(
    client: EngineClient, link: RecordingLink
) -> None:
    link.error = RecursionError()
    with pytest.raises(RequestRefused, match="nested too deeply") as caught:
        submit(client)
    assert caught.value.status == 400
    assert client.statistics().num_in_flight == 0


async def test_a_request_that_cannot_be_sent_keeps_no_credit(
    client: EngineClient, link: RecordingLink
) -> None:
    link.error, link.room = TypeError("our mistake"), 1
    with pytest.raises(TypeError):
        submit(client, num_prompts=3)
    statistics = client.statistics()
    assert (statistics.num_in_flight, statistics.num_open_calls) == (1, 0)
    client.on_message(RequestFinished(link.submitted[0].key))
    assert client.statistics().num_in_flight == 0


async def test_a_request_that_breaks_on_its_way_to_text_does_not_run_on(
    client: EngineClient, link: RecordingLink
) -> None:
    call = submit(client)
    (request,) = link.submitted
    text(client, request.key, 0, "", finish_reason=FinishReason.ERROR, error="detokenizer")
    assert link.aborted == [request.key]
    call.close()
    client.on_message(RequestFinished(request.key))
    assert client.statistics().num_in_flight == 0
