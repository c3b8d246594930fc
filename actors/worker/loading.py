"""From options to a worker that is ready: configuration, weights, cache, and a first step.

Everything that a person can get wrong ends here, as a `StartError` that says what to do.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from tokenreel.actors.runtime.actor import StartError
from tokenreel.actors.worker.compiling_ahead import CompilingAhead
from tokenreel.actors.worker.device import (
    check_batch_invariance,
    choose_device,
    choose_dtype,
    choose_quantization,
    set_num_threads,
)
from tokenreel.actors.worker.input_batch import InputBatch
from tokenreel.actors.worker.kernel_cache import kernel_cache_held
from tokenreel.actors.worker.kv_cache import (
    GIB,
    available_device_bytes,
    available_host_bytes,
    choose_num_blocks,
    free_bytes,
)
from tokenreel.actors.worker.model_config import ConfigFile, DecoderConfig
from tokenreel.actors.worker.model_runner import ModelRunner
from tokenreel.actors.worker.models.compiled_decoder import MIN_SCREENED, CompiledDecoder
from tokenreel.actors.worker.models.decoder import Decoder, ReadTensor, tensor_shapes
from tokenreel.actors.worker.models.model import Model
from tokenreel.actors.worker.models.registry import read_decoder_config
from tokenreel.actors.worker.models.without_layers import WithoutLayers
from tokenreel.actors.worker.weights import (
    Checkpoint,
    DummyWeights,
    ignores,
    model_hash,
)
from tokenreel.kernels.backend import choose_backend
from tokenreel.kernels.cpu.compiler import compilation_told
from tokenreel.kernels.cpu.greedy_screen import screens_bytes
from tokenreel.messages.ids import BlockId, Row, SeqId, StepId
from tokenreel.messages.lifecycle import WorkerReady
from tokenreel.messages.options import EngineOptions
from tokenreel.messages.sampling import SamplingParams
from tokenreel.messages.steps import AddedSequence, ScheduledSequence, StepScheduled

EVERY_WAY_TO_SAMPLE = (
    SamplingParams(top_k=50, top_p=0.9, min_p=0.01),
    SamplingParams(temperature=0),
    SamplingParams(num_logprobs=1),
)


@dataclass(frozen=True)
class LoadedWorker:
    runner: ModelRunner
    ready: WorkerReady
    detail: str
    """One short line for a person."""


def load(options: EngineOptions, ahead: CompilingAhead | None = None) -> LoadedWorker:
    """ahead: it may still be under way."""
    directory = Path(options.model)
    config = read_decoder_config(ConfigFile.read(directory))
    max_model_len = choose_max_model_len(options, config)
    device = choose_device(options.device)
    size = num_parameters(config)
    num_threads = set_num_threads(size)
    dtype = choose_dtype(options.dtype, config.dtype)
    quantization = choose_quantization(options.quantization, device)
    is_batch_invariant = check_batch_invariance(options.batch_invariant, device)
    with torch.inference_mode():
        model, name = load_model(
            options, directory, config, device, dtype, quantization, max_model_len, num_threads
        )
    runner, num_blocks = make_runner(options, model, max_model_len, ahead)
    ready = WorkerReady(
        num_blocks=num_blocks,
        block_size=options.block_size,
        max_model_len=max_model_len,
        vocab_size=config.vocab_size,
        model_hash=name,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        is_batch_invariant=is_batch_invariant,
    )
    quantized = f", {quantization}" if quantization else ""
    invariant = ", batch-invariant" if is_batch_invariant else ""
    threads = ""
    if device.type == "cpu":
        threads = f", {num_threads} thread" + ("s" if num_threads > 1 else "")
    detail = (
        f"{device.type} {ready.dtype}{quantized}{invariant}{threads}, {_count(size)} parameters, "
        f"{num_blocks} blocks of {options.block_size}"
    )
    return LoadedWorker(runner, ready, detail)


def choose_max_model_len(options: EngineOptions, config: DecoderConfig) -> int:
    limit = config.max_position
    wanted = options.max_model_len
    if wanted is None:
        return limit
    if not 1 <= wanted <= limit:
        raise StartError(
            f"--max-model-len {wanted} is outside what the model can do; use 1 to {limit}"
        )
    return wanted


def load_model(
    options: EngineOptions,
    directory: Path,
    config: DecoderConfig,
    device: torch.device,
    dtype: torch.dtype,
    quantization: str | None,
    max_model_len: int,
    num_threads: int,
) -> tuple[Model, bytes]:
    """The model and its hash."""

    def build(read: ReadTensor) -> Model:
        if device.type == "cpu":
            return CompiledDecoder(config, read, max_model_len, num_threads, quantization)
        return Decoder(config, read, choose_backend(device), max_model_len)

    shapes = tensor_shapes(config)
    _check_room_for_weights(config, dtype, quantization, device)
    if options.load_format == "dummy":
        weights = DummyWeights(shapes, dtype, device, options.seed)
        return build(weights), model_hash(directory, [], options.seed)
    if options.load_format not in ("auto", "safetensors"):
        raise StartError(f"--load-format {options.load_format} is unknown; use auto or dummy")
    with Checkpoint(directory, dtype, device) as checkpoint:
        checkpoint.check(shapes, ignores(config))
        return build(checkpoint), model_hash(directory, checkpoint.paths, None)


def make_runner(
    options: EngineOptions,
    model: Model,
    max_model_len: int,
    ahead: CompilingAhead | None = None,
) -> tuple[ModelRunner, int]:
    """A runner that has carried out a first step, and the number of its blocks."""
    block_size = options.block_size
    if block_size < 1:
        raise StartError("--block-size should be at least 1")
    is_gpu = model.device.type == "cuda"
    if is_gpu:
        peak_bytes = _measure_largest_step(options, model, max_model_len)
        utilization = options.gpu_memory_utilization
        available = available_device_bytes(model.device, utilization, peak_bytes)
    else:
        available = available_host_bytes()
    num_blocks = choose_num_blocks(
        options,
        model.block_bytes(block_size),
        max_model_len,
        available_bytes=available,
        free_bytes=free_bytes(model.device),
    )
    runner = _new_runner(options, model, max_model_len, num_blocks)
    # A CPU's kernels are the same for any number of tokens, and one touches the fewest pages; a
    # GPU's are others for one than for more.
    length = min(block_size, max_model_len, options.max_num_batched_tokens) if is_gpu else 1

    def take_first_steps(runner: ModelRunner) -> None:
        """They pay for what is compiled, or set up by libraries, when it is first used."""
        for sampling in EVERY_WAY_TO_SAMPLE:
            _run_alone(runner, _prompts(1, length, block_size, sampling))

    with kernel_cache_held(), compilation_told(_tell_of_compilation) as tell:
        if ahead is not None and isinstance(model, CompiledDecoder):
            take_first_steps(_new_runner(options, WithoutLayers(model), max_model_len, 1))
            if ahead.is_running():
                tell()
            ahead.wait()
        take_first_steps(runner)
    return runner, num_blocks


def _tell_of_compilation() -> None:
    print("compiling kernels for this processor, once: 5 to 20 s", file=sys.stderr, flush=True)


def num_parameters(config: DecoderConfig) -> int:
    return sum(math.prod(shape) for shape in tensor_shapes(config).values())


def _new_runner(
    options: EngineOptions, model: Model, max_model_len: int, num_blocks: int
) -> ModelRunner:
    block_size = options.block_size
    batch = InputBatch(
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        # The core lowers its limit to the pool too.
        max_model_len=min(max_model_len, num_blocks * block_size),
        block_size=block_size,
        num_blocks=num_blocks,
        vocab_size=model.config.vocab_size,
        is_async=model.device.type == "cuda",
    )
    return ModelRunner(model, model.new_cache(num_blocks, block_size), batch)


def _measure_largest_step(options: EngineOptions, model: Model, max_model_len: int) -> int:
    """The most memory that PyTorch holds while it carries out the largest step there can be."""
    num_seqs = min(options.max_num_seqs, options.max_num_batched_tokens)
    length = min(options.max_num_batched_tokens // num_seqs, max_model_len)
    step = _prompts(num_seqs, length, options.block_size, EVERY_WAY_TO_SAMPLE[0])
    num_blocks = num_seqs * -(-length // options.block_size)
    runner = _new_runner(options, model, max_model_len, num_blocks)
    cache_bytes = num_blocks * model.block_bytes(options.block_size)
    torch.cuda.reset_peak_memory_stats(model.device)
    _run_alone(runner, step)
    return torch.cuda.max_memory_allocated(model.device) - cache_bytes


def _run_alone(runner: ModelRunner, step: StepScheduled) -> None:
    """Carries the step out and leaves the rows as they were."""
    runner.launch(step).collect()
    rows = [added.row for added in step.added]
    runner.launch(StepScheduled(step.step_id, [], rows, []))


def _prompts(
    num_seqs: int, length: int, block_size: int, sampling: SamplingParams
) -> StepScheduled:
    """A step in which sequences begin, each with a whole prompt."""
    added, scheduled = [], []
    num_blocks = -(-length // block_size)
    for row in range(num_seqs):
        seq_id = SeqId(row + 1)
        blocks = [BlockId(row * num_blocks + i) for i in range(num_blocks)]
        added.append(AddedSequence(seq_id, Row(row), [0] * length, length, [], sampling))
        scheduled.append(ScheduledSequence(seq_id, Row(row), 0, length, 1, blocks))
    return StepScheduled(StepId(0), added, [], scheduled)


def _check_room_for_weights(
    config: DecoderConfig, dtype: torch.dtype, quantization: str | None, device: torch.device
) -> None:
    """Said beforehand, because a system that runs out of memory ends processes without a word. On
    a CPU the vocabulary is there twice, tied or not: as a table, and packed for products; a large
    one in float32 a third time, in few bits, to find the largest logit by."""
    needed = num_parameters(config) * dtype.itemsize
    if device.type == "cpu":
        table = config.vocab_size * config.hidden_size
        products = num_parameters(config) - (0 if config.tie_word_embeddings else table)
        needed = products * (1 if quantization else dtype.itemsize) + table * dtype.itemsize
        if dtype == torch.float32 and not quantization and table >= MIN_SCREENED:
            needed += screens_bytes(config.vocab_size, config.hidden_size)
    free = free_bytes(device)
    if needed > free:
        raise StartError(
            f"the weights take {needed / GIB:.1f} GiB as {str(dtype).removeprefix('torch.')}, but "
            f"{free / GIB:.1f} GiB of memory are free on {device}; use a smaller model, a 16-bit "
            "--dtype, or a machine with more memory"
        )


def _count(number: int) -> str:
    for unit, size in (("B", 1_000_000_000), ("M", 1_000_000), ("K", 1000)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)
