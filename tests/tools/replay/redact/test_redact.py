"""A redacted run decides as the original did; where it would not, there is none."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from capturing import capture
from conversing import CONFIG, Asked, Conversation, converse
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.invariants import check
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.ids import BlockHash, SeqId
from tokenreel.messages.journal import AFTER_GAP, IGNORABLE, REDACTED
from tokenreel.messages.outputs import TokensEmitted
from tokenreel.messages.requests import AdmitRequest, RequestRejected
from tokenreel.messages.sampling import FinishReason
from tokenreel.messages.steps import StepBegan, StepDecided, StepScheduled
from tokenreel.tools.exit_codes import EXIT_DIVERGED, EXIT_OK, EXIT_USAGE
from tokenreel.tools.replay.cli import main
from tokenreel.tools.replay.core_code import CoreCode, installed_core
from tokenreel.tools.replay.reading.events import RecordedEvent, recorded_events
from tokenreel.tools.replay.reading.journal import open_journal, read_records
from tokenreel.tools.replay.reading.writing import Capture, RunWriter, run_meta
from tokenreel.tools.replay.redact import fields
from tokenreel.tools.replay.redact.redact import CannotRedact, Redacted, redact
from tokenreel.tools.replay.verify.verify import verify

KEY = b"k" * 32
CODE = installed_core()
EOS = 49_000
BLOCK = [[31 * place + 1009 * number for place in range(4)] for number in range(12)]


def redacted(run: Path, out: Path, code: CoreCode = CODE, **flags: bool) -> Redacted:
    return redact(open_journal(run), out, code, key=KEY, **flags)


def events_of(run: Path) -> list[RecordedEvent]:
    return list(recorded_events(open_journal(run)))


def admits_of(run: Path) -> list[AdmitRequest]:
    return [each.event for each in events_of(run) if isinstance(each.event, AdmitRequest)]


def outputs_of(run: Path) -> dict[SeqId, list[int]]:
    outputs: dict[SeqId, list[int]] = {}
    for event in events_of(run):
        for effect in event.effects:
            if isinstance(effect, TokensEmitted):
                for tokens in effect.sequences:
                    outputs.setdefault(tokens.seq_id, []).extend(tokens.token_ids)
    return outputs


def finish_reasons_of(run: Path) -> list[tuple[SeqId, FinishReason]]:
    return [
        (tokens.seq_id, tokens.finish_reason)
        for event in events_of(run)
        for effect in event.effects
        if isinstance(effect, TokensEmitted)
        for tokens in effect.sequences
        if tokens.finish_reason is not None
    ]


def decisions_of(run: Path) -> list[tuple[int, int, str, object]]:
    """What was decided when, without tokens and names."""
    decided: list[tuple[int, int, str, object]] = []
    for event in events_of(run):
        for effect in event.effects:
            told: object = None
            if isinstance(effect, StepScheduled):
                told = (effect.scheduled, effect.removed_rows, [a.block_ids for a in effect.added])
            elif isinstance(effect, StepDecided):
                told = msgspec.structs.replace(effect, digest=())
            decided.append((event.seq, event.t_ns, type(effect).__name__, told))
    return decided


# Decisions stay.


@pytest.mark.parametrize("events_per_segment", [10**9, 60])
def test_every_decision_stays_at_its_place(tmp_path: Path, events_per_segment: int) -> None:
    run = capture(tmp_path / "journals", events_per_segment)

    done = redacted(run, tmp_path / "out")

    assert verify(open_journal(tmp_path / "out"), CODE).divergence is None
    base_ns = open_journal(run).segments[0].header.monotonic_ns
    moved = [(seq, t_ns - base_ns if t_ns > base_ns else 0, *rest) for seq, t_ns, *rest in
             decisions_of(run)]  # fmt: skip
    assert [tuple(each) for each in moved] == decisions_of(tmp_path / "out")
    assert done.num_requests == 40 and done.num_left_out == 0


def test_a_run_that_starts_from_a_snapshot_keeps_its_cache_hits(tmp_path: Path) -> None:
    """Blocks that were cached by requests of which only their hashes are left are hit by prompts,
    and by texts that a request comes to by its own output."""
    asked = [
        Asked(prompt=[*BLOCK[0], *BLOCK[1], *BLOCK[2]], outputs=BLOCK[3], max_tokens=6),
        Asked(prompt=[*BLOCK[0], *BLOCK[1], *BLOCK[2], *BLOCK[3], 5], arrival=14),
        Asked(prompt=[*BLOCK[0], *BLOCK[1]], outputs=[*BLOCK[2], *BLOCK[3]], arrival=20),
        Asked(prompt=[*BLOCK[0], *BLOCK[1], *BLOCK[4]], arrival=30),
    ]
    run = converse(tmp_path / "run", asked, events_per_segment=25)
    first, *others = open_journal(run).segments
    (run / first.name).unlink()

    redacted(run, tmp_path / "out")

    assert len(others) > 1
    hits = [
        tokens.num_cached_tokens
        for event in events_of(tmp_path / "out")
        for effect in event.effects
        if isinstance(effect, TokensEmitted)
        for tokens in effect.sequences
        if tokens.finish_reason is not None
    ]
    assert hits == [16, 4, 8]


def test_a_restart_behind_a_gap_is_redacted_too(tmp_path: Path) -> None:
    asked = [
        Asked(prompt=[*BLOCK[0], *BLOCK[number % 3], number], arrival=3 * number, n=1 + number % 2)
        for number in range(8)
    ]
    with RunWriter(tmp_path / "run", run_meta(CONFIG)) as writer:
        conversation = Conversation(Engine(CONFIG), asked, Capture(writer))
        for turn in range(36):
            if turn == 10:
                conversation.is_recorded = False
            if turn == 14:
                conversation.is_recorded = True
                snapshot = conversation.engine.snapshot()
                writer.begin_segment(snapshot, 20_000_000_000, first_seq=5000, flags=AFTER_GAP)
            conversation.play_turn()

    redacted(tmp_path / "run", tmp_path / "out")

    journal = open_journal(tmp_path / "out")
    assert [segment.header.first_seq for segment in journal.segments] == [1, 5000]
    assert verify(journal, CODE).totals.num_gaps == 1


def test_invariants_hold_over_stand_ins(tmp_path: Path) -> None:
    """Hashes are the chain over the stand-ins, so that tools that check everything go on to."""
    run = capture(tmp_path / "journals")
    redacted(run, tmp_path / "out")

    engine: Engine | None = None
    for event in events_of(tmp_path / "out"):
        engine = engine or Engine(open_config(tmp_path / "out"))
        engine.apply(event.event)
        check(engine)


def open_config(run: Path):  # type: ignore[no-untyped-def]
    return verify(open_journal(run), CODE).configuration


# Texts: what stays of them.


def test_shared_prefixes_stay_shared_through_outputs(tmp_path: Path) -> None:
    """The second turn of a talk holds the first one's output in its prompt."""
    asked = [
        Asked(prompt=[*BLOCK[0], 7], outputs=[8, 9, 10, 11], max_tokens=4),
        Asked(prompt=[*BLOCK[0], 7, 8, 9, 10, 11, 12], arrival=10),
        Asked(prompt=[*BLOCK[0], 7, 8, 9, 10, 99, 12], arrival=20),
    ]
    run = converse(tmp_path / "run", asked)
    redacted(run, tmp_path / "out")

    one, two, three = admits_of(tmp_path / "out")
    output = outputs_of(tmp_path / "out")[SeqId(1)]
    assert two.prompt_token_ids[:9] == one.prompt_token_ids + output
    assert three.prompt_token_ids[:8] == two.prompt_token_ids[:8]
    assert three.prompt_token_ids[8] != two.prompt_token_ids[8]
    assert three.prompt_token_ids[9] != two.prompt_token_ids[9]
    assert two.block_hashes[:2] == three.block_hashes[:2]


def test_equal_prompts_under_different_salts_cannot_be_linked(tmp_path: Path) -> None:
    prompt = [*BLOCK[0], *BLOCK[1], *BLOCK[2]]
    asked = [Asked(prompt=prompt, salt="alice"), Asked(prompt=prompt, salt="bob", arrival=20)]
    run = converse(tmp_path / "run", asked)
    redacted(run, tmp_path / "out")

    one, two = admits_of(tmp_path / "out")
    pairs = zip(one.prompt_token_ids, two.prompt_token_ids, strict=True)
    assert all(a != b for a, b in pairs)
    assert one.cache_root != two.cache_root
    assert not {*one.block_hashes} & {*two.block_hashes}
    outputs = outputs_of(tmp_path / "out")
    assert outputs[SeqId(1)] != outputs[SeqId(2)]


def test_without_a_prefix_cache_no_two_prompts_can_be_linked(tmp_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, enable_prefix_caching=False)
    prompt = [*BLOCK[0], *BLOCK[1]]
    asked = [Asked(prompt=prompt, n=2), Asked(prompt=prompt, arrival=12)]
    run = converse(tmp_path / "run", asked, config, events_per_segment=30)
    redacted(run, tmp_path / "out")

    one, two = admits_of(tmp_path / "out")
    pairs = zip(one.prompt_token_ids, two.prompt_token_ids, strict=True)
    assert all(a != b for a, b in pairs)


def test_where_a_stop_token_ended_it_shows_and_where_one_stood_does_not(tmp_path: Path) -> None:
    """Chat templates end each message with a stop token: in a prompt it would tell the turns."""
    asked = [
        Asked(prompt=[1, EOS, 2, 3, 4], outputs=[5, EOS], stop_token_ids=(EOS, 48_000)),
        Asked(prompt=[1, EOS, 2], outputs=[EOS, 6, EOS], stop_token_ids=(EOS,), min_tokens=2),
        Asked(prompt=[1, EOS, 2], outputs=[EOS, 6, 7], max_tokens=3),
        Asked(prompt=[1, EOS, 2], outputs=[48_000], stop_token_ids=(EOS, 48_000)),
    ]
    run = converse(tmp_path / "run", asked)
    redacted(run, tmp_path / "out")

    assert finish_reasons_of(run) == finish_reasons_of(tmp_path / "out")
    admits, outputs = admits_of(tmp_path / "out"), outputs_of(tmp_path / "out")
    (stop_id,) = {token for admit in admits for token in admit.stopping.stop_token_ids}
    assert not [admit for admit in admits if stop_id in admit.prompt_token_ids]
    places = [[i for i, token in enumerate(outputs[SeqId(s)]) if token == stop_id] for s in
              (1, 2, 3, 4)]  # fmt: skip
    assert places == [[1], [2], [], [0]]
    for admit in admits:
        assert admit.stopping.stop_token_ids == (stop_id,) and admit.stopping.min_tokens == 0


def test_priorities_keep_their_order_alone(tmp_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, scheduling_policy="priority")
    priorities = [0, 70_123, -8_123, 5, -8_122, 70_123]
    asked = [
        Asked(prompt=[*BLOCK[n], n], priority=p, arrival=n // 3) for n, p in enumerate(priorities)
    ]
    run = converse(tmp_path / "run", asked, config, events_per_segment=12)
    redacted(run, tmp_path / "out")

    assert [admit.priority for admit in admits_of(tmp_path / "out")] == [0, 2, -2, 1, -1, 2]
    (run / open_journal(run).segments[0].name).unlink()
    redacted(run, tmp_path / "later")


def test_keys_are_numbered_anew(tmp_path: Path) -> None:
    """An answer's id names the key, and who has the answer knows what was in it."""
    run = converse(tmp_path / "run", [Asked(prompt=[1, 2]), Asked(prompt=[3], abort_turn=0)])
    redacted(run, tmp_path / "out")

    assert [tuple(admit.key) for admit in admits_of(run)] == [(3, 1000), (3, 1001)]
    assert [tuple(admit.key) for admit in admits_of(tmp_path / "out")] == [(1, 1), (1, 2)]


# What is odd.


def test_requests_that_are_refused_are_refused_alike(tmp_path: Path) -> None:
    asked = [
        Asked(prompt=[1, 50_000, 2, 3], block_hashes=[]),
        Asked(prompt=[1, -1, 2, 3], block_hashes=[]),
        Asked(prompt=[1] * 70),
        Asked(prompt=[]),
        Asked(prompt=[1, 2, 3, 4], block_hashes=[BlockHash(b"a" * 16)] * 2),
    ]
    run = converse(tmp_path / "run", asked)
    redacted(run, tmp_path / "out")

    def refusals(run: Path) -> list[str]:
        effects = [effect for event in events_of(run) for effect in event.effects]
        return [effect.code for effect in effects if isinstance(effect, RequestRejected)]

    assert refusals(tmp_path / "out") == refusals(run)
    assert len(refusals(run)) == 5
    prompts = [admit.prompt_token_ids for admit in admits_of(tmp_path / "out")]
    assert prompts[0][1] == 50_000 and prompts[1][1] == -1


def test_failures_and_tokens_that_are_none_stay_what_they_are(tmp_path: Path) -> None:
    asked = [
        Asked(prompt=[1, 2], outputs=[3, 4], fails_at=1, failure="logits of /home/alice are NaN"),
        Asked(prompt=[1, 2], outputs=[3, 60_000], arrival=4),
        Asked(prompt=[1, 2], outputs=[-5], arrival=8),
    ]
    run = converse(tmp_path / "run", asked)
    redacted(run, tmp_path / "out")

    assert finish_reasons_of(tmp_path / "out") == finish_reasons_of(run)
    assert [reason for _, reason in finish_reasons_of(run)] == [FinishReason.ERROR] * 3


def test_hashes_that_are_no_chain_stay_equal_where_they_were(tmp_path: Path) -> None:
    """A bug in an input processor is as worth sharing as any other."""
    wrong = [BlockHash(b"a" * 16), BlockHash(b"b" * 16)]
    asked = [
        Asked(
            prompt=[*BLOCK[number], *BLOCK[number + 1], 5], block_hashes=wrong, arrival=8 * number
        )
        for number in range(2)
    ]
    run = converse(tmp_path / "run", asked)
    redacted(run, tmp_path / "out")

    one, two = admits_of(tmp_path / "out")
    assert one.block_hashes == two.block_hashes != wrong
    assert one.prompt_token_ids[0] != two.prompt_token_ids[0]


class FailingEngine(Engine):
    """Cannot stand a prompt of seven tokens."""

    def apply(self, event: CoreEvent) -> list[Effect]:
        if isinstance(event, AdmitRequest) and len(event.prompt_token_ids) == 7:
            raise LookupError(f"what is {event.prompt_token_ids}?")
        return super().apply(event)


class PickyEngine(Engine):
    """Looks at tokens, which no decision may."""

    def apply(self, event: CoreEvent) -> list[Effect]:
        if isinstance(event, StepBegan) and any(
            1 in sequence.token_ids for sequence in self.sequences.values()
        ):
            self.num_ignored += 1
        return super().apply(event)


def code_of(kind: type[Engine]) -> CoreCode:
    return CODE._replace(create=kind, restore=kind.restore)


def play_with(kind: type[Engine], run: Path, asked: list[Asked]) -> None:
    with RunWriter(run, run_meta(CONFIG)) as writer:
        conversation = Conversation(kind(CONFIG), asked, Capture(writer))
        try:
            conversation.play()
        except LookupError:
            pass


def test_a_failure_of_the_core_comes_out_again(tmp_path: Path) -> None:
    asked = [Asked(prompt=[1, 2, 3]), Asked(prompt=[41, 42, 43, 44, 45, 46, 47], arrival=2)]
    play_with(FailingEngine, tmp_path / "run", asked)
    code = code_of(FailingEngine)

    done = redacted(tmp_path / "run", tmp_path / "out", code)

    assert done.reproduced is not None and done.reproduced.type_name == "LookupError"
    verdict = verify(open_journal(tmp_path / "out"), code)
    assert verdict.reproduced is not None
    (failing,) = admits_of(tmp_path / "out")[1:]
    assert verdict.reproduced.message == f"what is {failing.prompt_token_ids}?"
    assert 'test_redact.py", line ' in verdict.reproduced.traceback
    assert str(Path(__file__).parent) not in verdict.reproduced.traceback


def test_a_core_that_decides_by_content_is_not_redacted(tmp_path: Path) -> None:
    play_with(PickyEngine, tmp_path / "run", [Asked(prompt=[1, 2, 3])])

    with pytest.raises(CannotRedact, match=r"seq 4: StepBegan\[1\]\.digest\[3\]"):
        redacted(tmp_path / "run", tmp_path / "out", code_of(PickyEngine))

    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_journal_that_this_code_does_not_bear_out_is_not_redacted(tmp_path: Path) -> None:
    play_with(PickyEngine, tmp_path / "run", [Asked(prompt=[1, 2, 3])])

    with pytest.raises(CannotRedact, match="does not decide as the journal says"):
        redacted(tmp_path / "run", tmp_path / "out")

    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_input_that_nobody_listed_is_left_out_and_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = converse(tmp_path / "run", [Asked(prompt=[1, 2, 3], abort_turn=2)])
    monkeypatch.delitem(fields.FIELDS, "AbortRequest")
    fields.plan_of.cache_clear()

    with pytest.raises(CannotRedact, match="AbortRequest is not listed"):
        redacted(run, tmp_path / "out")


def test_a_record_that_nobody_listed_is_left_out_and_counted(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", run_meta(CONFIG)) as writer:
        writer.append(4095, IGNORABLE, b"what a later version has to say", 5)
        Conversation(Engine(CONFIG), [Asked(prompt=[1])], Capture(writer)).play()

    assert redacted(tmp_path / "run", tmp_path / "out").num_left_out == 1


TOKENS = st.sampled_from([1, 2, 3, EOS])
ASKED = st.builds(
    Asked,
    prompt=st.lists(TOKENS, min_size=1, max_size=14),
    outputs=st.lists(TOKENS, max_size=8),
    arrival=st.integers(0, 12),
    max_tokens=st.integers(1, 8),
    salt=st.sampled_from(["", "alice"]),
    stop_token_ids=st.sampled_from([(), (EOS,), (3, EOS)]),
    min_tokens=st.integers(0, 3),
    priority=st.integers(-2, 2),
    n=st.integers(1, 2),
    abort_turn=st.none() | st.integers(0, 20),
    fails_at=st.none() | st.integers(0, 3),
    failure=st.sampled_from(["", "broken"]),
)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    asked=st.lists(ASKED, min_size=1, max_size=8),
    num_blocks=st.integers(6, 12),
    policy=st.sampled_from(["fcfs", "priority"]),
    has_cache=st.booleans(),
    num_dropped=st.integers(0, 3),
)
def test_whatever_was_recorded_is_redacted(
    tmp_path_factory: pytest.TempPathFactory,
    asked: list[Asked],
    num_blocks: int,
    policy: str,
    has_cache: bool,
    num_dropped: int,
) -> None:
    directory = tmp_path_factory.mktemp("any")
    config = msgspec.structs.replace(
        CONFIG,
        num_blocks=num_blocks,
        max_model_len=4 * num_blocks,
        scheduling_policy=policy,
        enable_prefix_caching=has_cache,
    )
    run = converse(directory / "run", asked, config, events_per_segment=20)
    segments = open_journal(run).segments
    for segment in segments[: min(num_dropped, len(segments) - 1)]:
        (run / segment.name).unlink()

    redacted(run, directory / "out")

    assert finish_reasons_of(directory / "out") == finish_reasons_of(run)
    texts = {tuple(admit.prompt_token_ids) for admit in admits_of(directory / "out")}
    assert not texts & {tuple(admit.prompt_token_ids) for admit in admits_of(run)}


# Time, records, and the command.


def test_the_time_of_day_goes_and_how_long_it_took_stays(tmp_path: Path) -> None:
    run = capture(tmp_path / "journals")
    header = open_journal(run).segments[0].header
    redacted(run, tmp_path / "out")

    new = open_journal(tmp_path / "out").segments[0].header
    assert new.monotonic_ns == 0
    assert new.wall_ns % (86_400 * 10**9) == 0
    assert 0 <= header.wall_ns - new.wall_ns < 86_400 * 10**9
    assert new.run_id != header.run_id and new.salt != header.salt


def test_without_timing_events_come_at_an_even_beat(tmp_path: Path) -> None:
    run = capture(tmp_path / "journals")
    redacted(run, tmp_path / "out", keeps_timing=False, keeps_day=False)

    times = [event.t_ns for event in events_of(tmp_path / "out")]
    assert {later - earlier for earlier, later in zip(times, times[1:], strict=False)} == {10**6}
    assert open_journal(tmp_path / "out").segments[0].header.wall_ns == 0


def test_every_record_says_that_it_is_redacted(tmp_path: Path) -> None:
    redacted(capture(tmp_path / "journals"), tmp_path / "out")

    for _, _, records in read_records(open_journal(tmp_path / "out")):
        assert all(record.flags & REDACTED for record in records)


def test_the_key_is_drawn_anew_each_time(tmp_path: Path) -> None:
    run = converse(tmp_path / "run", [Asked(prompt=BLOCK[0])])
    for name in ("a", "b"):
        redact(open_journal(run), tmp_path / name, CODE)

    prompts = [admits_of(tmp_path / name)[0].prompt_token_ids for name in ("a", "b")]
    assert prompts[0] != prompts[1]


def test_the_verb_writes_and_says_what_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = capture(tmp_path / "journals")

    assert main(["redact", str(run), str(tmp_path / "out")]) == EXIT_OK
    assert capsys.readouterr().out.startswith("redacted: 40 requests, ")
    assert main(["redact", str(run), str(tmp_path / "json"), "--json", "--no-date"]) == EXIT_OK
    report = json.loads(capsys.readouterr().out)
    assert report["num_requests"] == 40 and not report["keeps_day"]
    assert main(["verify", str(tmp_path / "out")]) == EXIT_OK


@pytest.mark.parametrize(
    "prepare", [lambda out: out.mkdir(), lambda out: out.write_text("mine"), None]
)
def test_the_verb_refuses_a_place_where_it_cannot_write(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    prepare: Callable[[Path], object] | None,
) -> None:
    run = converse(tmp_path / "run", [Asked(prompt=BLOCK[0])])
    out = tmp_path / "out" if prepare else tmp_path / "nowhere" / "out"
    if prepare:
        prepare(out)

    assert main(["redact", str(run), str(out)]) == EXIT_USAGE
    assert str(out) in capsys.readouterr().err


def test_the_verb_says_in_one_line_that_it_did_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play_with(PickyEngine, tmp_path / "run", [Asked(prompt=[1, 2, 3])])

    exit_code = main(["redact", str(tmp_path / "run"), str(tmp_path / "out")])

    assert exit_code == EXIT_DIVERGED
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()
