"""Which block holds which prefix: hash chain links to blocks and back.

A link is entered only once the block's KV is committed, so that a match never waits. Two sequences
that computed the same block at the same time leave one entry: the first; the other stays unnamed.
"""

from tokenreel.actors.core.digest import CACHE, Digest, weight
from tokenreel.messages.ids import BlockHash, BlockId


class PrefixCache:
    def __init__(self, digest: Digest) -> None:
        self.block_of: dict[BlockHash, BlockId] = {}
        self.hash_of: dict[BlockId, BlockHash] = {}
        self._digest = digest

    def match(self, hashes: list[BlockHash], max_blocks: int) -> list[BlockId]:
        """The blocks of the longest known prefix of `hashes`, at most `max_blocks` of them."""
        found: list[BlockId] = []
        for link in hashes[:max_blocks]:
            block = self.block_of.get(link)
            if block is None:
                break
            found.append(block)
        return found

    def holds(self, block: BlockId) -> bool:
        return block in self.hash_of

    def enter(self, link: BlockHash, block: BlockId) -> None:
        if link in self.block_of or block in self.hash_of:
            return
        self.block_of[link] = block
        self.hash_of[block] = link
        self._digest.add(CACHE, cache_term(link, block))

    def forget(self, block: BlockId) -> None:
        link = self.hash_of.pop(block)
        del self.block_of[link]
        self._digest.add(CACHE, -cache_term(link, block))


def cache_term(link: BlockHash, block: BlockId) -> int:
    """An entry's term of the digest's `cache` component."""
    return weight(block) * int.from_bytes(link[:8], "little")
