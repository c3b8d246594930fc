"""Stand-ins for tokens: who does not have the key learns of a text only where it equals another.

The stand-in of a token is the value of a permutation of the vocabulary that is drawn anew for every
text that can stand before it. Equal prefixes so have equal stand-ins, texts that part never meet
again, and how often a token occurs shows nowhere. One id stays free, so that it can stand for every
token that ended its sequence: texts show no trace of where a stop token was.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import isqrt

NUM_ROUNDS = 6
STATE_BYTES = 16
RUN_TOKENS = 64
MAX_RUNS_KEPT = 4096
"""Prefixes come again with every request that has them: the last 262,144 tokens are remembered."""

State = bytes
"""The text so far, as the key's owner sees it: 16 secret bytes."""


class StandIns:
    """`stop_id` stands for no token of a text; best it is an id that the texts do not use, else two
    of them share a stand-in at each place."""

    def __init__(self, key: bytes, vocab_size: int, stop_id: int) -> None:
        if not 0 <= stop_id < vocab_size or vocab_size < 2:
            raise ValueError(f"{stop_id} leaves nothing of a vocabulary of {vocab_size}")
        self.stop_id = stop_id
        self._key = key
        self._vocab_size = vocab_size
        # The permutation is a Feistel network over pairs (left, right) with left in
        # [0, num_left) and right in [0, num_right), which are at least as many as the vocabulary.
        self._num_right = isqrt(vocab_size - 1) + 1
        self._num_left = -(-vocab_size // self._num_right)
        self._run = lru_cache(MAX_RUNS_KEPT)(self._map_run)

    def start(self, domain: bytes) -> State:
        """Before the first token. Texts of different domains have nothing in common."""
        return blake2b(
            domain, digest_size=STATE_BYTES, key=self._key, person=b"tokenreel-texts"
        ).digest()

    def text(self, state: State, token_ids: Sequence[int]) -> tuple[list[int], State]:
        """The stand-ins of tokens that follow each other, and what comes after them."""
        stand_ins: list[int] = []
        for begin in range(0, len(token_ids), RUN_TOKENS):
            run, state = self._run(state, tuple(token_ids[begin : begin + RUN_TOKENS]))
            stand_ins += run
        return stand_ins, state

    def token(self, state: State, token_id: int) -> tuple[int, State]:
        """The stand-in of the next token. One outside the vocabulary stays outside."""
        is_known = 0 <= token_id < self._vocab_size
        stand_in = self._permute(state, token_id) if is_known else self.filler(token_id)
        after = state + stand_in.to_bytes(8, "little", signed=True)
        return stand_in, blake2b(after, digest_size=STATE_BYTES).digest()

    def filler(self, token_id: int) -> int:
        """For a token that belongs to no text: all that shows is on which side of the vocabulary
        it is, if it is not in it."""
        if token_id < 0:
            return -1
        return 0 if token_id < self._vocab_size else self._vocab_size

    def _map_run(self, state: State, token_ids: tuple[int, ...]) -> tuple[tuple[int, ...], State]:
        stand_ins = []
        for token_id in token_ids:
            stand_in, state = self.token(state, token_id)
            stand_ins.append(stand_in)
        return tuple(stand_ins), state

    def _permute(self, state: State, token_id: int) -> int:
        """Again and again, until it is in the vocabulary and not the stop id: still one to one.
        A text that does use the stop id shares its neighbour's stand-in."""
        if token_id == self.stop_id:
            token_id = (token_id + 1) % self._vocab_size
        number = self._scramble(state, token_id)
        while number >= self._vocab_size or number == self.stop_id:
            number = self._scramble(state, number)
        return number

    def _scramble(self, state: State, number: int) -> int:
        num_left, num_right = self._num_left, self._num_right
        left, right = divmod(number, num_right)
        for index in range(0, NUM_ROUNDS, 2):
            left = (left + _hash(state, index, right)) % num_left
            right = (right + _hash(state, index + 1, left)) % num_right
        return left * num_right + right


def free_id(key: bytes, vocab_size: int, used: Iterable[int]) -> int:
    """An id that is not `used`, drawn by the key; any if there is none."""
    taken = set(used)
    drawn = blake2b(b"free", digest_size=8, key=key, person=b"tokenreel-stop").digest()
    first = int.from_bytes(drawn, "little") % vocab_size
    candidates = ((first + step) % vocab_size for step in range(vocab_size))
    return next((number for number in candidates if number not in taken), first)


def _hash(state: State, index: int, half: int) -> int:
    text = b"%b%c%b" % (state, index, half.to_bytes(8, "little"))
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
