"""Which token sequences share which prefixes, as groups within groups: the inner nodes of a prefix
tree, found as intervals of common prefixes between neighbours in sorted order
(Kasai et al., CPM 2001).
"""

from typing import NamedTuple


class Prefix(NamedTuple):
    """The first `length` tokens are those of everybody in `group`; groups count from 1."""

    group: int
    length: int


def shared_prefixes(
    texts: list[tuple[bytes, list[int]]], block_size: int
) -> list[tuple[Prefix, ...]]:
    """For each text the groups that it belongs to, the shortest prefix first. Texts of different
    roots (the bytes) share nothing; neither does less than a block, nor what is left over of one.
    """
    order = sorted(range(len(texts)), key=texts.__getitem__)
    groups: list[list[Prefix]] = [[] for _ in texts]
    num_groups = 0
    open_nodes: list[tuple[int, int]] = []  # (prefix length, first place), longer ones on top
    for place in range(1, len(order) + 1):
        length = 0
        if place < len(order):
            length = _num_shared(texts[order[place - 1]], texts[order[place]])
            length -= length % block_size
        first = place - 1
        while open_nodes and open_nodes[-1][0] > length:
            node_length, first = open_nodes.pop()
            num_groups += 1
            for member in order[first:place]:
                groups[member].append(Prefix(num_groups, node_length))
        if length and (not open_nodes or open_nodes[-1][0] < length):
            open_nodes.append((length, first))
    return [tuple(sorted(prefixes, key=lambda prefix: prefix.length)) for prefixes in groups]


def _num_shared(one: tuple[bytes, list[int]], other: tuple[bytes, list[int]]) -> int:
    if one[0] != other[0]:
        return 0
    low, high = 0, min(len(one[1]), len(other[1]))
    while low < high:
        middle = (low + high + 1) // 2
        if one[1][low:middle] == other[1][low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
