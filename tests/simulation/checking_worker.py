"""A worker that computes nothing and notices everything (`tools.replay.playing`). A sampled
token is a function of (seed, output index)."""

from tokenreel.actors.core.config import CoreConfig
from tokenreel.tools.replay.playing import scripted_worker


def output_token(seed: int, output_index: int, vocab_size: int) -> int:
    """Never 0, so that a test can make 0 its stop token and say when it comes."""
    return 1 + (seed * 7919 + output_index * 104729 + 17) % (vocab_size - 1)


class CheckingWorker(scripted_worker.CheckingWorker):
    """`stops` says, by (seed, output index), where another token comes; a test may add to it."""

    def __init__(self, config: CoreConfig, stops: dict[tuple[int, int], int] | None = None) -> None:
        there = {} if stops is None else stops

        def sample(seed: int, output_index: int) -> int:
            stop_at = there.get((seed, output_index))
            own = output_token(seed, output_index, config.vocab_size)
            return own if stop_at is None else stop_at

        super().__init__(config, sample)
