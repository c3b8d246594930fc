"""Which sequence holds which blocks: prefix hits, growth, commitment to the cache, release.

What `blocks_needed` counts is what `grow` takes: a promise and its fulfilment share one unit. A
writable block (one that is not yet full and committed) has exactly one holder.
"""

from tokenreel.actors.core.block_pool import BlockPool
from tokenreel.actors.core.config import CoreConfig, blocks_for
from tokenreel.actors.core.digest import BLOCK_TABLES, Digest, weight
from tokenreel.actors.core.prefix_cache import PrefixCache
from tokenreel.actors.core.sequence import Sequence
from tokenreel.messages.block_hash import chain_link
from tokenreel.messages.ids import BlockId, StepId
from tokenreel.messages.sampling import MASK_64


class KvManager:
    def __init__(self, config: CoreConfig, digest: Digest) -> None:
        self.block_size = config.block_size
        self.pool = BlockPool(config.num_blocks, digest)
        self.cache = PrefixCache(digest)
        self._digest = digest

    def match(self, sequence: Sequence) -> list[BlockId]:
        """The cached blocks that `sequence` could start with. At least one token is left to
        compute, so at most (num_known - 1) // block_size blocks hit. Takes nothing."""
        if not sequence.cache_root:
            return []
        self._extend_chain(sequence, sequence.num_known // self.block_size)
        max_blocks = (sequence.num_known - 1) // self.block_size
        return self.cache.match(sequence.hashes, max_blocks)

    def num_available_beside(self, hits: list[BlockId]) -> int:
        """Blocks that could be taken once `hits` are held: evictable hits are no longer free."""
        references = self.pool.references
        return self.pool.num_available - sum(1 for block in hits if references[block] == 0)

    def hold_prefix(self, sequence: Sequence, hits: list[BlockId]) -> None:
        """`sequence` starts with `hits`, found by `match` in this same event."""
        for block in hits:
            self.pool.hold(block)
            self._append(sequence, block)
        sequence.num_registered = len(hits)
        sequence.num_computed = sequence.num_scheduled = len(hits) * self.block_size

    def blocks_needed(self, sequence: Sequence, num_tokens: int) -> int:
        """New blocks that `grow` would take for the first `num_tokens` positions."""
        return max(0, blocks_for(num_tokens, self.block_size) - len(sequence.block_table))

    def holds(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether the first `num_tokens` positions have their blocks: none is needed."""
        return num_tokens <= len(sequence.block_table) * self.block_size

    def grow(self, sequence: Sequence, num_tokens: int) -> list[BlockId]:
        """Blocks for the first `num_tokens` positions; the new ones, in order."""
        new: list[BlockId] = []
        for _ in range(self.blocks_needed(sequence, num_tokens)):
            block, evicted = self.pool.take()
            if evicted:
                self.cache.forget(block)
            self._append(sequence, block)
            new.append(block)
        return new

    def commit(self, sequence: Sequence) -> None:
        """Names the blocks that completed steps have filled, so that others can share them."""
        num_full = sequence.num_computed // self.block_size
        if num_full <= sequence.num_registered or not sequence.cache_root:
            return
        self._extend_chain(sequence, num_full)
        for index in range(sequence.num_registered, num_full):
            self.cache.enter(sequence.hashes[index], sequence.block_table[index])
        sequence.num_registered = num_full

    def release(self, sequence: Sequence) -> None:
        """Gives up every block. Those that an open step may still write are fenced."""
        fence, first, end = self._written_by_open_steps(sequence)
        # From the tail: a prefix is worth more to the cache than what follows it.
        for index in range(len(sequence.block_table) - 1, -1, -1):
            block = sequence.block_table[index]
            self.pool.drop(
                block,
                cached=self.cache.holds(block),
                fence=fence if first <= index < end else None,
            )
        self._digest.add(BLOCK_TABLES, -sequence.table_term)
        sequence.table_term = 0
        sequence.block_table = []
        sequence.num_registered = 0

    def count_release(self, sequence: Sequence, dropped: dict[BlockId, int]) -> tuple[int, int]:
        """Blocks that `release` would make available now, and those that it would fence.

        `dropped` counts the references that earlier candidates of the same plan would drop, and
        is brought up to date with this one's.
        """
        _, first, end = self._written_by_open_steps(sequence)
        num_freed = num_fenced = 0
        for index, block in enumerate(sequence.block_table):
            dropped[block] = dropped.get(block, 0) + 1
            if dropped[block] == self.pool.references[block]:
                if first <= index < end:
                    num_fenced += 1
                else:
                    num_freed += 1
        return num_freed, num_fenced

    def _written_by_open_steps(self, sequence: Sequence) -> tuple[StepId | None, int, int]:
        """The step to wait for, and the range of table indices that open steps may write."""
        if not sequence.num_open_steps or sequence.num_scheduled <= sequence.num_computed:
            return None, 0, 0
        first = sequence.num_computed // self.block_size
        end = blocks_for(sequence.num_scheduled, self.block_size)
        return sequence.last_step_id, first, end

    def _extend_chain(self, sequence: Sequence, num_blocks: int) -> None:
        hashes, size = sequence.hashes, self.block_size
        while len(hashes) < num_blocks:
            parent = hashes[-1] if hashes else sequence.cache_root
            start = len(hashes) * size
            hashes.append(chain_link(parent, sequence.token_ids[start : start + size]))

    def _append(self, sequence: Sequence, block: BlockId) -> None:
        term = table_term(sequence, len(sequence.block_table), block)
        sequence.block_table.append(block)
        sequence.table_term = (sequence.table_term + term) & MASK_64
        self._digest.add(BLOCK_TABLES, term)


def table_term(sequence: Sequence, index: int, block: BlockId) -> int:
    """A block table entry's term of the digest's `block_tables` component."""
    return (weight(sequence.seq_id) ^ weight(block)) * (2 * index + 1)
