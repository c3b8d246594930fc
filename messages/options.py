"""What the user asked `engine-up` for: written by the supervisor, read by every actor."""

import msgspec


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """One field per flag of `engine-up`, named alike; the defaults are documented there."""

    model: str
    served_model_name: str
    host: str = "127.0.0.1"
    port: int = 8000
    dtype: str = "auto"
    quantization: str | None = None
    batch_invariant: bool = False
    """Refuse to start where logits could depend on who shares the batch."""
    device: str = "auto"
    load_format: str = "auto"
    chat_template: str | None = None
    api_key: str | None = None
    seed: int = 0
    max_model_len: int | None = None
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    max_num_queued_reqs: int = 1024
    block_size: int = 16
    kv_cache_memory_bytes: int | None = None
    num_gpu_blocks_override: int | None = None
    gpu_memory_utilization: float = 0.9
    enable_prefix_caching: bool = True
    scheduling_policy: str = "fcfs"
    pipeline_depth: int = 2
    journal_dir: str | None = None
    """None: no journal (`--no-journal`)."""
    journal_sync: str = "interval"
    journal_max_bytes: int = 1 << 30
    on_journal_error: str = "stop"
    debug_view: bool = False
    """Serve the page of `engine-replay view` on this run under /debug; needs a journal."""
    pin_worker: bool = True
    """A worker of one thread gets a processor of its own; see `actors.runtime.own_processor`."""
    drain_timeout_s: float = 30.0
    max_body_bytes: int = 8 << 20
    stub_worker: bool = False
    """Run `actors.stub_worker`: no model, no torch; tokens are a function of seed and position."""
