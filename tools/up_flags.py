"""The flags of `engine-up`: names, ranges, help, and how they become `EngineOptions`."""

import argparse
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from tokenreel.actors.runtime.child import API_KEY_VARIABLE
from tokenreel.actors.runtime.recorder import MIN_JOURNAL_BYTES
from tokenreel.actors.runtime.supervisor import DEFAULT_START_TIMEOUT_S
from tokenreel.messages.options import EngineOptions
from tokenreel.tools import up_values as values

DEMO_MODEL = Path(__file__).parent / "demo_model"
DEMO_MODEL_NAME = "tokenreel-demo"
USAGE_EXIT_CODE = 2
MAX_SEED = (1 << 64) - 1
MAX_BODY_BYTES = 48 << 20
"""What fits one frame between actors, with room for the rest of the request."""

DESCRIPTION = """\
Serve a language model over an OpenAI-compatible HTTP API, and keep a journal of every event that
shaped the scheduling, which engine-replay re-executes. Without MODEL a small demo model runs.

Ctrl-C or SIGTERM lets running requests finish (--drain-timeout), once more stops at once.
"""

EPILOG = """\
exit codes: 0 stopped as asked, 1 an actor failed or could not start, 2 a flag, the model directory,
the journal directory or the port is wrong, 128+N stopped at once by a second signal N.
"""


class UpParser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage of forty flags would hide it."""

    def error(self, message: str) -> NoReturn:
        print(f"engine-up: {message} (engine-up --help lists the flags)", file=sys.stderr)
        raise SystemExit(USAGE_EXIT_CODE)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples' lines, and adds the default where there is one to tell."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=100)

    def _get_help_string(self, action: argparse.Action) -> str:
        if isinstance(action, argparse.BooleanOptionalAction):
            # Some versions of Python have appended the default themselves, as a Python value.
            return (action.help or "").partition(" (default: %")[0]
        has_default = action.option_strings and action.default not in (
            None,
            False,
            argparse.SUPPRESS,
        )
        return f"{action.help} (default: %(default)s)" if has_default else action.help or ""


class Misconfigured(Exception):
    """Something in the environment stands where a flag could: one line that says what to do."""


def default_journal_dir() -> Path:
    """Where a user's programs keep what outlives a run (XDG base directory specification).

    Raises Misconfigured for a user without a home directory.
    """
    try:
        state_home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        raise Misconfigured(
            "there is no home directory to keep journals in: name another place with "
            "--journal-dir, or record nothing with --no-journal"
        ) from None
    return Path(state_home) / "tokenreel" / "journals"


def make_parser() -> UpParser:
    parser = UpParser(
        prog="engine-up",
        description=DESCRIPTION,
        epilog=EPILOG,
        usage="engine-up [MODEL] [FLAG ...]",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "model",
        type=values.text,
        nargs="?",
        metavar="MODEL",
        help="Hugging Face model directory: config.json, tokenizer.json, *.safetensors",
    )
    _add_model_flags(parser)
    _add_http_flags(parser)
    _add_scheduling_flags(parser)
    _add_memory_flags(parser)
    _add_journal_flags(parser)
    _add_lifetime_flags(parser)
    return parser


def options_from(arguments: argparse.Namespace) -> EngineOptions:
    """Every flag in its field; paths made absolute. Looks at no file.

    Raises Misconfigured if the environment does not do.
    """
    model = Path(arguments.model) if arguments.model is not None else DEMO_MODEL
    default_name = model.resolve().name if arguments.model is not None else DEMO_MODEL_NAME
    if arguments.debug_view and arguments.no_journal:
        raise Misconfigured("--debug-view shows the run's journal: leave --no-journal out")
    journal_dir = None if arguments.no_journal else arguments.journal_dir or default_journal_dir()
    template = arguments.chat_template
    return EngineOptions(
        model=str(model.absolute()),
        served_model_name=arguments.served_model_name or default_name,
        host=arguments.host,
        port=arguments.port,
        dtype=arguments.dtype,
        quantization=arguments.quantization,
        batch_invariant=arguments.batch_invariant,
        device=arguments.device,
        load_format=arguments.load_format,
        chat_template=None if template is None else str(template.absolute()),
        api_key=arguments.api_key or _api_key_from_environment(),
        seed=arguments.seed,
        max_model_len=arguments.max_model_len,
        max_num_seqs=arguments.max_num_seqs,
        max_num_batched_tokens=arguments.max_num_batched_tokens,
        max_num_queued_reqs=arguments.max_num_queued_reqs,
        block_size=arguments.block_size,
        kv_cache_memory_bytes=arguments.kv_cache_memory_bytes,
        num_gpu_blocks_override=arguments.num_gpu_blocks_override,
        gpu_memory_utilization=arguments.gpu_memory_utilization,
        enable_prefix_caching=arguments.enable_prefix_caching,
        scheduling_policy=arguments.scheduling_policy,
        pipeline_depth=arguments.pipeline_depth,
        journal_dir=None if journal_dir is None else str(journal_dir.absolute()),
        journal_sync=arguments.journal_sync,
        journal_max_bytes=arguments.journal_max_bytes,
        on_journal_error=arguments.on_journal_error,
        debug_view=arguments.debug_view,
        pin_worker=arguments.pin_worker,
        drain_timeout_s=arguments.drain_timeout,
        max_body_bytes=arguments.max_body_bytes,
        stub_worker=arguments.stub_worker,
    )


def _api_key_from_environment() -> str | None:
    text = os.environ.get(API_KEY_VARIABLE)
    try:
        return None if text is None else values.api_key(text)
    except argparse.ArgumentTypeError as error:
        raise Misconfigured(f"{API_KEY_VARIABLE} {error}; unset it to serve without one") from None


def _add_model_flags(parser: UpParser) -> None:
    add = parser.add_argument_group(
        "model", "example: engine-up ~/models/Qwen3-0.6B --dtype bfloat16 --max-model-len 8192"
    ).add_argument
    add(
        "--served-model-name",
        type=values.text,
        metavar="NAME",
        help="the model's name in the API; by default the directory's own, "
        f"{DEMO_MODEL_NAME} for the demo model",
    )
    add(
        "--dtype",
        choices=("auto", "float32", "float16", "bfloat16"),
        default="auto",
        help="of weights and KV cache; auto: the model's own",
    )
    add(
        "--quantization",
        choices=("int8", "int8-weight-only"),
        help="on a CPU, of a model that is not quantized yet. int8: weights in 8 bits with a scale "
        "per output channel, and what they are multiplied with too, with a scale per token; "
        "int8-weight-only: the weights alone, closer to the model and slower",
    )
    add(
        "--batch-invariant",
        action="store_true",
        help="start only where a request's logits have the same bits whoever shares its batch and "
        "however its prompt is cut: a CPU always computes like that, a GPU not yet",
    )
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: cuda if there is one",
    )
    add(
        "--load-format",
        choices=("auto", "dummy"),
        default="auto",
        help="dummy: random weights, no weight files needed",
    )
    add(
        "--max-model-len",
        type=values.integer(1),
        metavar="TOKENS",
        help="prompt and output of one sequence together; by default what the model was made "
        "for, lowered to what the KV cache holds",
    )
    add(
        "--chat-template",
        type=values.path,
        metavar="FILE",
        help="a Jinja file to use instead of the model's own",
    )
    add(
        "--seed",
        type=values.integer(0, MAX_SEED),
        default=0,
        metavar="N",
        help="of the seeds drawn for requests that bring none, and of dummy weights",
    )
    add(
        "--pin-worker",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="a model that one thread computes gets a processor of its own, which the engine core "
        "keeps off, if there is one to spare (default: on)",
    )
    add(
        "--stub-worker",
        action="store_true",
        help="no model and no torch: tokens count upwards; to measure everything around the model",
    )


def _add_http_flags(parser: UpParser) -> None:
    add = parser.add_argument_group(
        "http", f"example: {API_KEY_VARIABLE}=secret engine-up --host 0.0.0.0 --port 8080"
    ).add_argument
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for every network")
    add(
        "--port",
        type=values.integer(0, 65535),
        default=8000,
        help="0: any free one; the address is printed",
    )
    add(
        "--api-key",
        type=values.api_key,
        metavar="KEY",
        help="clients must send it as a bearer token; safer in the environment variable "
        f"{API_KEY_VARIABLE}, because other users can list the arguments of processes",
    )
    add(
        "--max-body-bytes",
        type=values.size(1024, MAX_BODY_BYTES),
        default="8M",
        metavar="SIZE",
        help="of one HTTP request",
    )


def _add_scheduling_flags(parser: UpParser) -> None:
    add = parser.add_argument_group(
        "scheduling", "example: engine-up --max-num-seqs 64 --scheduling-policy priority"
    ).add_argument
    add(
        "--max-num-seqs",
        type=values.integer(1, values.MAX_NUM_SEQS),
        default=256,
        metavar="N",
        help="sequences running at once",
    )
    add(
        "--max-num-batched-tokens",
        type=values.integer(1, values.MAX_BATCHED_TOKENS),
        default=2048,
        metavar="TOKENS",
        help="computed in one step, prompts and outputs together; longer prompts take several",
    )
    add(
        "--max-num-queued-reqs",
        type=values.integer(0, values.MAX_QUEUED_REQS),
        default=1024,
        metavar="N",
        help="requests taken in beyond those that can run; more get 429 with Retry-After",
    )
    add(
        "--scheduling-policy",
        choices=("fcfs", "priority"),
        default="fcfs",
        help="fcfs: first come, first served; priority: by the request's priority first, "
        "the lowest number before others",
    )
    add(
        "--pipeline-depth",
        type=values.integer(1, values.MAX_PIPELINE_DEPTH),
        default=2,
        metavar="STEPS",
        help="steps decided before the first of them has come back, 1 to 3",
    )


def _add_memory_flags(parser: UpParser) -> None:
    add = parser.add_argument_group(
        "KV cache", "example: engine-up --kv-cache-memory-bytes 2G --block-size 32"
    ).add_argument
    add(
        "--kv-cache-memory-bytes",
        type=values.size(1),
        metavar="SIZE",
        help="K, M, G or T may follow, powers of 1024; by default a share of what is free",
    )
    add(
        "--num-gpu-blocks-override",
        type=values.integer(1, values.MAX_NUM_BLOCKS),
        metavar="BLOCKS",
        help="so many blocks, whatever the memory, on a CPU too; for tests",
    )
    add(
        "--gpu-memory-utilization",
        type=values.fraction,
        default=0.9,
        metavar="SHARE",
        help="of the GPU's memory, weights and KV cache together, above 0 up to 1",
    )
    add(
        "--block-size",
        type=values.block_size,
        default=16,
        metavar="TOKENS",
        help=f"in one KV block: a power of two up to {values.MAX_BLOCK_SIZE}",
    )
    add(
        "--enable-prefix-caching",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="use the KV of an earlier request that began with the same tokens (default: on)",
    )


def _add_journal_flags(parser: UpParser) -> None:
    add = parser.add_argument_group(
        "journal", "example: engine-up --journal-dir ./journals --journal-max-bytes 4G"
    ).add_argument
    add(
        "--journal-dir",
        type=values.path,
        metavar="DIR",
        help="each run gets a directory in it; by default tokenreel/journals in $XDG_STATE_HOME, "
        "or in ~/.local/state",
    )
    add("--no-journal", action="store_true", help="record nothing; the run cannot be replayed")
    add(
        "--journal-max-bytes",
        type=values.size(MIN_JOURNAL_BYTES),
        default="1G",
        metavar="SIZE",
        help="of all journals in the directory; the oldest finished ones go first",
    )
    add(
        "--journal-sync",
        choices=("none", "interval", "step"),
        default="interval",
        help="when the disk must have it. A killed process loses nothing in any case; a power "
        "cut may cost what the kernel holds (none), 100 ms (interval), or nothing (step)",
    )
    add(
        "--on-journal-error",
        choices=("stop", "gap"),
        default="stop",
        help="a full disk, say. stop: end the engine; gap: go on, with a hole in the journal",
    )
    add(
        "--debug-view",
        action="store_true",
        help="a page under /debug that shows every step of this run; with --api-key it asks for "
        "the key as the password",
    )


def _add_lifetime_flags(parser: UpParser) -> None:
    add = parser.add_argument_group(
        "lifetime", "example: engine-up ~/models/Llama-3.1-8B --start-timeout 1800"
    ).add_argument
    add(
        "--start-timeout",
        type=values.seconds,
        default=f"{DEFAULT_START_TIMEOUT_S:g}",
        metavar="SECONDS",
        help="to load the model, or give up",
    )
    add(
        "--drain-timeout",
        type=values.seconds,
        default="30",
        metavar="SECONDS",
        help="that running requests have to finish once asked to stop; later ones are cut short",
    )
    add("--version", action="version", version=f"tokenreel {version('tokenreel')}")
