"""The hash chain that names KV blocks by everything that their content depends on.

Link i is blake2b-128 over link i-1 and the token ids of block i, so that equal links mean equal
token prefixes. The root covers model, tokenizer and cache_salt: caches of different models or
tenants never meet.
"""

from collections.abc import Sequence
from hashlib import blake2b
from struct import pack

from tokenreel.messages.ids import BlockHash

DIGEST_SIZE = 16


def cache_root(model_hash: bytes, tokenizer_hash: bytes, cache_salt: str) -> BlockHash:
    digest = blake2b(digest_size=DIGEST_SIZE, person=b"tokenreel-root")
    for part in (model_hash, tokenizer_hash, cache_salt.encode()):
        digest.update(pack("<Q", len(part)))
        digest.update(part)
    return BlockHash(digest.digest())


def private_root(root: BlockHash, frontend_epoch: int, number: int) -> BlockHash:
    """A root that one request alone has: its sequences share blocks, nobody else does."""
    text = root + b"%d/%d" % (frontend_epoch, number)
    return BlockHash(blake2b(text, digest_size=DIGEST_SIZE, person=b"tokenreel-own").digest())


def chain_link(parent: BlockHash, token_ids: Sequence[int]) -> BlockHash:
    """The name of the block that holds `token_ids` after the prefix that `parent` names."""
    text = parent + pack(f"<{len(token_ids)}I", *token_ids)
    return BlockHash(blake2b(text, digest_size=DIGEST_SIZE).digest())


def chain(root: BlockHash, token_ids: Sequence[int], block_size: int) -> list[BlockHash]:
    """One link per full block of `token_ids`; a partial tail has no name."""
    links: list[BlockHash] = []
    for end in range(block_size, len(token_ids) + 1, block_size):
        parent = links[-1] if links else root
        links.append(chain_link(parent, token_ids[end - block_size : end]))
    return links
