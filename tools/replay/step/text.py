"""One step's state as a page for a person: what was composed, who waits for what, whose blocks."""

from collections.abc import Iterator, Mapping, Sequence

from tokenreel.actors.core import sequence as core
from tokenreel.actors.core.config import blocks_for
from tokenreel.actors.core.digest import COMPONENTS
from tokenreel.actors.core.sequence import Status
from tokenreel.messages.ids import BlockId, SeqId
from tokenreel.messages.steps import ScheduledSequence
from tokenreel.tools.replay.index.collector import is_decode
from tokenreel.tools.replay.index.rows import Step
from tokenreel.tools.replay.reading.journal import Journal
from tokenreel.tools.replay.step.state import StepState
from tokenreel.tools.replay.step.words import (
    StepWords,
    finish_text,
    outputs_text,
    positions_text,
)
from tokenreel.tools.replay.text_layout import count, labelled, ranges, some, table

FOLDED_ROWS = 12
FOLDED_LINES = 3
FOLDED_NAMES = 4
NO_LIMIT = 1 << 60


def as_text(state: StepState, journal: Journal, is_complete: bool) -> str:
    """`is_complete`: however long its lists are."""
    return "\n".join([*headline(state, journal), *_Page(state, is_complete).lines()])


def headline(state: StepState, journal: Journal) -> Iterator[str]:
    """Which step it is, and what became of it."""
    row, snapshot = state.row, state.snapshot
    when = "before" if state.is_before else "after"
    since_s = (row.t_ns - journal.segments[0].header.monotonic_ns) / 1e9
    yield f"step {row.step_id:,} of run {journal.run_id}, {when} it was composed"
    yield from labelled(
        "event",
        f"seq {row.seq:,}, {state.event.segment} offset {row.offset:,}, "
        f"{since_s:,.3f} s after the start",
    )
    yield from labelled(
        "composed",
        f"{count(row.num_seqs, 'sequence')}; {row.num_tokens:,} of "
        f"{snapshot.config.max_num_batched_tokens:,} tokens, {row.num_decode_tokens:,} of them "
        f"decode; {count(row.num_new_blocks, 'new block')}; {row.num_preempted:,} preempted",
    )
    yield from labelled("worker", _worker(row))
    yield from labelled("passed over", StepWords(state).first_passed_over())


def _worker(row: Step) -> str:
    if not row.completed_seq:
        return "did not complete it in this journal"
    took_ms = (row.ended_ns - row.began_ns) / 1e6
    told_ms = (row.completed_t_ns - row.t_ns) / 1e6
    return (
        f"took {took_ms:,.3f} ms, and told the core {told_ms:,.3f} ms after it was composed "
        f"(seq {row.completed_seq:,}): {count(row.num_emitted, 'token')}, "
        f"{count(row.num_finished, 'sequence')} finished"
    )


class _Page:
    """The sections below the headline."""

    def __init__(self, state: StepState, is_complete: bool) -> None:
        self._state = state
        self._words = StepWords(state)
        self._max_rows = NO_LIMIT if is_complete else FOLDED_ROWS
        self._max_lines = None if is_complete else FOLDED_LINES
        self._max_names = NO_LIMIT if is_complete else FOLDED_NAMES

    def lines(self) -> Iterator[str]:
        yield from self._scheduled()
        yield from self._preempted()
        yield from self._running()
        yield from self._waiting()
        yield from self._others("blocked", Status.BLOCKED, "a sibling computes their prompt")
        yield from self._others("finished", Status.FINISHED, "their output is not delivered yet")
        yield from self._open_steps()
        yield from self._blocks()
        yield from self._block_tables()
        yield from self._cached()
        yield from self._counters()

    # What the step is made of.

    def _scheduled(self) -> Iterator[str]:
        shares = self._state.scheduled.scheduled
        yield from _title(f"scheduled ({len(shares):,}), in the order of visit")
        yield from table(
            ("row", "<request", "<seq", "positions", "tokens", "<", "samples", "<new blocks"),
            [
                (
                    share.row,
                    self._words.name(share.seq_id),
                    f"s{share.seq_id}",
                    positions_text(share),
                    share.num_tokens,
                    self._kind(share),
                    share.num_logits,
                    ranges(share.new_block_ids) or "-",
                )
                for share in shares
            ],
            self._max_rows,
            len(shares),
        )

    def _kind(self, share: ScheduledSequence) -> str:
        kind = "decode" if is_decode(share) else "prefill"
        for added in self._state.scheduled.added:
            if added.seq_id == share.seq_id:
                num_hits = len(added.block_ids) * self._state.snapshot.config.block_size
                return f"{kind}, enters" + (f", {num_hits:,} cached" if num_hits else "")
        return kind

    def _preempted(self) -> Iterator[str]:
        preempted = self._state.preempted
        if not preempted:
            return
        yield from _title(f"preempted ({len(preempted):,})")
        yield from table(
            ("<request", "<seq", "<gave way to", "computed tokens lost"),
            [
                (
                    self._words.name(each.seq_id),
                    f"s{each.seq_id}",
                    self._words.name(each.for_seq_id),
                    each.num_computed_tokens,
                )
                for each in preempted
            ],
            self._max_rows,
            len(preempted),
        )

    # Who is where.

    def _running(self) -> Iterator[str]:
        running = self._state.queue(Status.RUNNING)
        title = f"running ({len(running):,}), served from the top, preempted from the bottom"
        yield from _title(title)
        headers = (
            *("row", "<request", "<seq", "level", "prompt", "out/max", "computed", "ahead"),
            *("open", "blocks", "preempted", "<in this step"),
        )
        rows = (
            (
                each.row,
                *self._identity(each),
                each.num_computed,
                each.num_scheduled - each.num_computed,
                each.num_open_steps,
                len(each.block_table),
                each.epoch,
                self._words.part(each.seq_id),
            )
            for each in running
        )
        yield from table(headers, rows, self._max_rows, len(running))

    def _waiting(self) -> Iterator[str]:
        waiting = self._state.queue(Status.WAITING)
        yield from _title(f"waiting ({len(waiting):,}), in line")
        size = self._state.snapshot.config.block_size
        headers = (
            *("place", "<request", "<seq", "level", "prompt", "out/max", "blocks", "preempted"),
            "<not in this step",
        )
        rows = (
            (
                place,
                *self._identity(each),
                blocks_for(each.num_known, size),
                each.epoch,
                self._words.part(each.seq_id),
            )
            for place, each in enumerate(waiting, 1)
        )
        yield from table(headers, rows, self._max_rows, len(waiting))

    def _others(self, name: str, status: Status, meaning: str) -> Iterator[str]:
        there = self._state.queue(status)
        if not there:
            return
        yield from _title(f"{name} ({len(there):,}): {meaning}")
        headers = ("<request", "<seq", "level", "prompt", "out/max", "<finish")
        rows = ((*self._identity(each), finish_text(each)) for each in there)
        yield from table(headers, rows, self._max_rows, len(there))

    def _identity(self, each: core.Sequence) -> tuple[object, ...]:
        return (
            self._words.name(each.seq_id),
            f"s{each.seq_id}",
            each.level,
            each.num_prompt_tokens,
            outputs_text(each),
        )

    def _open_steps(self) -> Iterator[str]:
        snapshot = self._state.snapshot
        depth = snapshot.config.pipeline_depth
        yield from _title(f"open steps ({len(snapshot.open_steps):,}, at most {depth:,})")
        fenced = dict(snapshot.fenced_blocks)
        rows = [
            (
                step.step_id,
                len(step.shares),
                sum(share.samples for share in step.shares),
                ranges(fenced.get(step.step_id, [])) or "none",
            )
            for step in snapshot.open_steps
        ]
        headers = ("step", "sequences", "tokens to come", "<blocks fenced until it completes")
        yield from table(headers, rows, self._max_rows, len(rows))

    # Whose the blocks are.

    def _blocks(self) -> Iterator[str]:
        snapshot, holders = self._state.snapshot, self._state.holders()
        num_fenced = sum(len(blocks) for _, blocks in snapshot.fenced_blocks)
        yield from _title(
            f"blocks ({snapshot.config.num_blocks:,} of {snapshot.config.block_size:,} tokens): "
            f"{len(holders):,} held, {num_fenced:,} fenced, {len(snapshot.evictable_blocks):,} "
            f"evictable, {len(snapshot.free_blocks):,} free"
        )
        yield from self._block_list("free", snapshot.free_blocks, "handed out from the left")
        yield from self._block_list("evictable", snapshot.evictable_blocks, "evicted from the left")
        shared = sorted(block for block, seq_ids in holders.items() if len(seq_ids) > 1)
        yield from self._block_list("shared", shared, "held by several sequences")

    def _block_list(self, label: str, blocks: Sequence[BlockId], order: str) -> list[str]:
        more = f"... {len(blocks):,} in all, {order} (--all)"
        return labelled(label, ranges(blocks), self._max_lines, more) if blocks else []

    def _block_tables(self) -> Iterator[str]:
        tables = [each for each in self._state.snapshot.sequences if each.block_table]
        tables.sort(key=lambda each: each.order)
        yield from _title(f"block tables ({len(tables):,})")
        for each in tables[: self._max_rows]:
            more = f"... {len(each.block_table):,} in all (--all)"
            name = self._words.name(each.seq_id)
            yield from labelled(name, ranges(each.block_table), self._max_lines, more)
        if len(tables) > self._max_rows:
            yield f"  ... and {len(tables) - self._max_rows:,} more (--all)"

    def _cached(self) -> Iterator[str]:
        cache = self._state.snapshot.cache
        yield from _title(f"cached prefixes ({len(cache):,}), by block")
        holders: Mapping[BlockId, list[SeqId]] = self._state.holders()
        rows = (
            (
                block,
                link.hex(),
                self._holders(holders.get(block, [])),
            )
            for block, link in cache
        )
        yield from table(("block", "<hash", "<held by"), rows, self._max_rows, len(cache))

    def _holders(self, seq_ids: list[SeqId]) -> str:
        if not seq_ids:
            return "nobody: evictable"
        names = [self._words.name(seq_id) for seq_id in seq_ids]
        return some(names, self._max_names)

    def _counters(self) -> Iterator[str]:
        snapshot = self._state.snapshot
        yield from _title("counters")
        yield from labelled(
            "next",
            f"seq_id {snapshot.next_seq_id:,}, arrival {snapshot.next_arrival:,}, "
            f"step {snapshot.next_step_id:,}, stamp {snapshot.next_stamp:,}",
        )
        yield from labelled(
            "events",
            f"{snapshot.num_ignored:,} ignored; "
            + ("no step until another comes" if snapshot.settled else "a step may follow"),
        )
        last = [f"{epoch}.{number}" for epoch, number in snapshot.last_numbers]
        yield from labelled("last admitted", " ".join(last) or "none")
        if snapshot.freed_rows:
            yield from labelled("freed rows", f"{ranges(snapshot.freed_rows)} (not told yet)")
        if snapshot.tombstones:
            names = " ".join(f"{epoch}.{number}" for epoch, number in snapshot.tombstones)
            more = f"... {len(snapshot.tombstones):,} in all (--all)"
            yield from labelled("tombstones", names, self._max_lines, more)
        digest = zip(COMPONENTS, snapshot.digest, strict=False)
        yield from labelled("digest", " ".join(f"{name}={value:016x}" for name, value in digest))


def _title(text: str) -> list[str]:
    return ["", text]
