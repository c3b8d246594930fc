"""How processes come up, tell each other what they found, and go down."""

import msgspec


class WorkerReady(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=65):
    """worker -> engine core: the model is loaded; what only the worker could find out.

    `num_blocks` is how many KV blocks fit the memory it may use; `model_hash` covers config.json
    and every weight file; `max_model_len` is the smaller of the model's and the user's limit.
    """

    num_blocks: int
    block_size: int
    max_model_len: int
    vocab_size: int
    model_hash: bytes
    device: str
    dtype: str
    is_batch_invariant: bool = False
    """A request's tokens depend on nothing but itself, the model and this machine."""


class EngineFacts(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=66):
    """engine core -> input processor, frontend, detokenizer: the first message on each link.

    `max_model_len` is what one sequence may hold, already lowered to fit the pool. `max_in_flight`
    is the number of credits the frontend has: requests submitted and not yet finished or rejected.
    """

    max_model_len: int
    max_num_seqs: int
    max_in_flight: int
    num_blocks: int
    block_size: int
    vocab_size: int
    model_hash: bytes


class ActorReady(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=67):
    """any actor -> supervisor. `detail` is one short line for a person."""

    role: str
    rank: int
    pid: int
    detail: str
    num_threads: int = 0
    """That compute a model; 0: it computes none, or not on a processor."""


class ActorFailed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=68):
    """any actor -> supervisor, just before it exits: one line that says what to do."""

    role: str
    rank: int
    message: str


class SystemReady(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=69):
    """supervisor -> frontend: every actor is ready; /health may say so."""


class DrainRequested(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=70):
    """supervisor -> frontend: answer 503 to newcomers, let running requests finish."""

    timeout_s: float


class Drained(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=71):
    """frontend -> supervisor: no request is left (or the timeout passed and they were ended)."""

    num_cut_short: int


class ActorDied(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=72):
    """supervisor -> frontend: end every open stream with an error, in band."""

    role: str
    rank: int
    message: str


class Shutdown(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=73):
    """supervisor -> any actor: leave now, tidily, with exit code 0."""


class Serving(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=74):
    """frontend -> supervisor, the answer to `SystemReady`: /health says so now."""
