"""The KV blocks and their states: each is free, evictable, held or fenced, and exactly one of them.

    take -> held -> (last reference dropped) -> free, or evictable if the prefix cache names it,
                                                or fenced while an open step may still write it
    fenced -> free when that step completes;  evictable -> held by a cache hit, or free by eviction

Free blocks are handed out in the order in which they came back (FIFO); evictable ones are evicted
least recently used first. Both orders are state: they decide who gets which block. Every operation
is O(1) per block.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable

from tokenreel.actors.core.digest import FREE_LIST, Digest, weight
from tokenreel.messages.ids import BlockId, StepId


class InvariantViolated(AssertionError):
    """The core contradicts itself: a bug here, never a fault of a request or of another process."""


class BlockPool:
    def __init__(self, num_blocks: int, digest: Digest) -> None:
        self.num_blocks = num_blocks
        self.num_fenced = 0
        self.references = [0] * num_blocks
        self.free: deque[BlockId] = deque(map(BlockId, range(num_blocks)))
        self.evictable: OrderedDict[BlockId, None] = OrderedDict()
        self.fenced: dict[StepId, list[BlockId]] = {}
        self.stamps = list(range(1, num_blocks + 1))
        self.next_stamp = num_blocks + 1
        self._digest = digest
        digest.add_later(FREE_LIST, lambda: _stamp_terms(range(1, num_blocks + 1)))

    @property
    def num_available(self) -> int:
        """Blocks that `take` can hand out now."""
        return len(self.free) + len(self.evictable)

    def take(self) -> tuple[BlockId, bool]:
        """A block for one new holder, and whether the cache must forget what it held."""
        if self.free:
            block, evicted = self.free.popleft(), False
        elif self.evictable:
            (block, _), evicted = self.evictable.popitem(last=False), True
        else:
            raise InvariantViolated("a block was taken from an empty pool")
        self._unstamp(block)
        self.references[block] = 1
        return block, evicted

    def hold(self, block: BlockId) -> None:
        """One more holder for a block that the cache names: held already, or evictable."""
        if self.references[block] == 0:
            if block not in self.evictable:
                raise InvariantViolated(f"block {block} was hit in the cache but is not evictable")
            del self.evictable[block]
            self._unstamp(block)
        self.references[block] += 1

    def drop(self, block: BlockId, *, cached: bool, fence: StepId | None) -> None:
        """One holder less. Without holders the block is fenced until step `fence` completes, if
        one is named, else evictable if it is `cached`, else free."""
        if self.references[block] < 1:
            raise InvariantViolated(f"block {block} was dropped without a holder")
        self.references[block] -= 1
        if self.references[block]:
            return
        if fence is not None:
            self.fenced.setdefault(fence, []).append(block)
            self.num_fenced += 1
            self._digest.add(FREE_LIST, -weight(~block))
        elif cached:
            self.evictable[block] = None
            self._stamp(block)
        else:
            self._put_free(block)

    def lift_fence(self, step_id: StepId) -> None:
        """Step `step_id` has completed: nothing writes its fenced blocks any more."""
        for block in self.fenced.pop(step_id, ()):
            self.num_fenced -= 1
            self._digest.add(FREE_LIST, weight(~block))
            self._put_free(block)

    def restore(
        self,
        free: list[BlockId],
        evictable: list[BlockId],
        fenced: list[tuple[StepId, list[BlockId]]],
        stamps: list[int],
    ) -> None:
        """Takes a snapshot's place of every block; who holds the others is the caller's to say."""
        before = self.stamps
        self._digest.add_later(FREE_LIST, lambda: _stamp_terms(stamps) - _stamp_terms(before))
        self.free = deque(free)
        self.evictable = OrderedDict.fromkeys(evictable)
        self.fenced = dict(fenced)
        self.num_fenced = sum(len(blocks) for _, blocks in fenced)
        self.stamps = list(stamps)
        for _, blocks in fenced:
            for block in blocks:
                self._digest.add(FREE_LIST, -weight(~block))

    def _put_free(self, block: BlockId) -> None:
        self.free.append(block)
        self._stamp(block)

    def _stamp(self, block: BlockId) -> None:
        self.stamps[block] = self.next_stamp
        self._digest.add(FREE_LIST, weight(block) * self.next_stamp)
        self.next_stamp += 1

    def _unstamp(self, block: BlockId) -> None:
        self._digest.add(FREE_LIST, -weight(block) * self.stamps[block])
        self.stamps[block] = 0


def _stamp_terms(stamps: Iterable[int]) -> int:
    """What the stamps of blocks 0, 1, ... come to in the digest's `free_list` component."""
    return sum(weight(number) * stamp for number, stamp in enumerate(stamps) if stamp)
