"""Where every sequence stands: blocked, waiting, running. Finished ones stand nowhere.

The order is total, (level, arrival, index), so that no structure's inner layout can decide
anything. Waiting costs O(log n) to join, nothing to stand in.
"""

from heapq import heapify, heappop, heappush

from tokenreel.actors.core.digest import QUEUES, Digest
from tokenreel.actors.core.sequence import NO_ROW, Sequence, Status
from tokenreel.messages.ids import Row, SeqId

LINE_SLACK = 64


def max_line_length(num_waiting: int) -> int:
    """Beyond it the line is formed anew, so that those who have left do not pile up."""
    return 2 * num_waiting + LINE_SLACK


class Queues:
    def __init__(self, max_num_seqs: int, digest: Digest) -> None:
        self.running: list[Sequence] = []
        """In order: the first is served first, the last is preempted first."""
        self.blocked: dict[SeqId, Sequence] = {}
        self.waiting: dict[SeqId, Sequence] = {}
        self.free_rows = [Row(number) for number in range(max_num_seqs)]
        """A heap: the lowest row first, so that the worker's batch stays dense."""
        self.freed_rows: list[Row] = []
        """Rows given up since the last step was sent: the worker has not heard yet."""
        self.line: list[tuple[tuple[int, int, int], SeqId]] = []
        """A heap of those who wait, and of some who left from the middle of it."""
        self._digest = digest

    def head(self) -> Sequence | None:
        """The first of those who wait."""
        while self.line:
            sequence = self.waiting.get(self.line[0][1])
            if sequence is not None:
                return sequence
            heappop(self.line)  # it left from the middle of the line
        return None

    def may_precede(self, level: int) -> bool:
        """False if nobody of a strictly lower level than `level` waits, for sure. At once."""
        return bool(self.line) and self.line[0][0][0] < level

    def block(self, sequence: Sequence) -> None:
        self.blocked[sequence.seq_id] = sequence
        self._place(sequence, Status.BLOCKED)

    def wait(self, sequence: Sequence) -> None:
        self._leave(sequence)
        self.waiting[sequence.seq_id] = sequence
        if len(self.line) < max_line_length(len(self.waiting)):
            heappush(self.line, (sequence.order, sequence.seq_id))
        else:
            self._form_line_anew()
        self._place(sequence, Status.WAITING)

    def run(self, sequence: Sequence) -> None:
        """Gives the sequence a row; there must be a free one."""
        self._leave(sequence)
        sequence.row = heappop(self.free_rows)
        place = len(self.running)  # nearly always the last
        while place and self.running[place - 1].order > sequence.order:
            place -= 1
        self.running.insert(place, sequence)
        self._place(sequence, Status.RUNNING)

    def finish(self, sequence: Sequence) -> None:
        self._leave(sequence)
        self._place(sequence, Status.FINISHED)

    def forget(self, sequence: Sequence) -> None:
        """The finished sequence's output is delivered; nothing of it stays."""
        self._digest.add(QUEUES, -sequence.queue_term)

    def restore(self, sequences: list[Sequence]) -> None:
        """Puts every sequence of a snapshot where its status says. Digest terms are theirs."""
        for sequence in sequences:
            self._digest.add(QUEUES, sequence.queue_term)
            match sequence.status:
                case Status.BLOCKED:
                    self.blocked[sequence.seq_id] = sequence
                case Status.WAITING:
                    self.waiting[sequence.seq_id] = sequence
                case Status.RUNNING:
                    self.running.append(sequence)
                    self.free_rows.remove(sequence.row)
                case Status.FINISHED:
                    pass
        self.running.sort(key=_order)
        self._form_line_anew()
        heapify(self.free_rows)

    def _form_line_anew(self) -> None:
        self.line = [(sequence.order, seq_id) for seq_id, sequence in self.waiting.items()]
        heapify(self.line)

    def _leave(self, sequence: Sequence) -> None:
        match sequence.status:
            case Status.BLOCKED:
                self.blocked.pop(sequence.seq_id, None)
            case Status.WAITING:
                self.waiting.pop(sequence.seq_id, None)
            case Status.RUNNING:
                self.running.remove(sequence)
                heappush(self.free_rows, sequence.row)
                self.freed_rows.append(sequence.row)
                sequence.row = NO_ROW
            case Status.FINISHED:
                pass

    def _place(self, sequence: Sequence, status: Status) -> None:
        sequence.status = status
        term = sequence.expected_queue_term()
        self._digest.add(QUEUES, term - sequence.queue_term)
        sequence.queue_term = term


def _order(sequence: Sequence) -> tuple[int, int, int]:
    return sequence.order
