"""The flags that verbs share. Where vLLM's bench has the same thing the name is vLLM's."""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenreel.tools import up_values as values
from tokenreel.tools.bench.client.address import BadUrl, parse_address
from tokenreel.tools.bench.workload.prompts import RandomPrompts
from tokenreel.tools.command import UsageError

MAX_PROMPTS = 1_000_000
MAX_TOKENS = 1 << 20
MAX_CONCURRENCY = 16_384
MAX_WARMUPS = 64
GOODPUT_METRICS = ("ttft", "tpot", "e2el")


def add_server_flags(parser: argparse.ArgumentParser, *, is_remote_allowed: bool = True) -> None:
    group = parser.add_argument_group(
        "server",
        "engine-up is started on MODEL, with the flags behind `--`, and stopped at the end",
    )
    group.add_argument(
        "model",
        nargs="?",
        type=values.path,
        metavar="MODEL",
        help="model directory; by default the embedded demo model",
    )
    group.add_argument(
        "--model", dest="model_flag", type=values.path, metavar="MODEL", help="the same as a flag"
    )
    group.add_argument(
        "--ready-check-timeout-sec",
        type=values.seconds,
        default=600.0,
        metavar="S",
        help="for the server to get ready (default: 600)",
    )
    if is_remote_allowed:
        _add_remote_flags(group.add_argument)


def _add_remote_flags(add: Callable[..., Any]) -> None:
    add(
        "--base-url",
        type=_url,
        metavar="URL",
        help="measure a server that runs already: any with OpenAI's /v1/completions. MODEL then "
        "only tells the size of the vocabulary",
    )
    add("--served-model-name", metavar="NAME", help="default: the first that /v1/models names")
    add(
        "--header",
        action="append",
        type=_header,
        default=[],
        metavar="KEY=VALUE",
        help="one more header; a key in TOKENREEL_API_KEY or OPENAI_API_KEY is sent by itself",
    )
    add(
        "--vocab-size",
        type=values.integer(2),
        metavar="N",
        help="random token ids are below it (default: the model's, or 30000)",
    )


def add_workload_flags(parser: argparse.ArgumentParser, *, input_len: int, output_len: int) -> None:
    add = parser.add_argument_group("workload").add_argument
    add("--num-prompts", type=values.integer(1, MAX_PROMPTS), metavar="N", help="requests per run")
    add_length_flags(add, input_len, output_len)
    add(
        "--random-range-ratio",
        type=_ratio,
        default=0.0,
        metavar="R",
        help="lengths are uniform within R of theirs, 0 to 1 (default: 0)",
    )
    add(
        "--random-prefix-len",
        "--prefix-repetition-prefix-len",
        type=values.integer(0, MAX_TOKENS),
        default=0,
        metavar="TOKENS",
        help="that prompts share with others, on top of --input-len (default: 0)",
    )
    add(
        "--num-prefixes",
        "--prefix-repetition-num-prefixes",
        type=values.integer(1, MAX_PROMPTS),
        default=1,
        metavar="N",
        help="different shared prefixes, each prompt opens with one of them (default: 1)",
    )
    add(
        "--dataset-path",
        type=values.path,
        metavar="FILE",
        help='prompts instead of random tokens: .jsonl with "prompt" and perhaps "output_tokens", '
        "or a text file with one per line; with --num-prompts, the first of a longer file, "
        "those of a shorter one from the top again",
    )
    add_request_flags(add)


def add_length_flags(add: Callable[..., Any], input_len: int, output_len: int) -> None:
    add(
        "--input-len",
        "--random-input-len",
        type=values.integer(1, MAX_TOKENS),
        default=input_len,
        metavar="TOKENS",
        help=f"of a prompt (default: {input_len})",
    )
    add(
        "--output-len",
        "--random-output-len",
        type=values.integer(1, MAX_TOKENS),
        default=output_len,
        metavar="TOKENS",
        help=f"of an answer (default: {output_len})",
    )


def add_request_flags(add: Callable[..., Any]) -> None:
    add("--seed", type=int, default=0, metavar="N", help="everything random follows from it")
    add(
        "--ignore-eos",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="answers have exactly the length that is asked for (default: yes)",
    )
    add("--temperature", type=float, default=0.0, metavar="T", help="default: 0, greedy")
    add(
        "--extra-body",
        type=_json_object,
        default={},
        metavar="JSON",
        help="further fields of every request",
    )
    add(
        "--request-timeout",
        type=values.seconds,
        default=600.0,
        metavar="S",
        help="a request that takes longer has failed (default: 600)",
    )


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add("--json", "--output-json", type=values.path, metavar="FILE", help="write the result")
    add(
        "--save-result",
        action="store_true",
        help="write it to a file named after verb, label and time",
    )
    add("--result-dir", type=values.path, metavar="DIR", help="where --save-result writes")
    add("--result-filename", type=values.path, metavar="NAME", help="instead of that name")
    add("--label", metavar="TEXT", help="what compare calls it (default: the model's name)")
    add("--plot", type=values.path, metavar="FILE", help="draw it: .png, .svg or .pdf")
    add("--disable-tqdm", action="store_true", help="no progress bar")


def concurrencies(text: str) -> list[int]:
    """`1,8,64`: several runs."""
    return [values.integer(1, MAX_CONCURRENCY)(part) for part in text.split(",")]


def rates(text: str) -> list[float]:
    """`2,4,inf`: requests per second; inf means without any pause."""
    return [_positive(part) for part in text.split(",")]


def burstiness(text: str) -> float:
    return _positive(text)


def slowness(text: str) -> float:
    """By what recorded times are multiplied."""
    value = _positive(text)
    if math.isinf(value):
        raise argparse.ArgumentTypeError("nobody waits for ever")
    return value


def goodput_limit(text: str) -> tuple[str, float]:
    """`ttft:500`."""
    name, colon, limit = text.partition(":")
    if name not in GOODPUT_METRICS or not colon:
        known = ", ".join(GOODPUT_METRICS)
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:MILLISECONDS, NAME one of {known}")
    value = _positive(limit)
    if math.isinf(value):
        raise argparse.ArgumentTypeError(f"{text!r} limits nothing")
    return name, value


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _ratio(text: str) -> float:
    value = float(text) if text.replace(".", "", 1).isdigit() else -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return value


def _url(text: str) -> str:
    try:
        parse_address(text)
    except BadUrl as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return name, value


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return found


def add_warmup_flag(add: Callable[..., Any]) -> None:
    add(
        "--num-warmups",
        type=values.integer(0),
        metavar="N",
        help="short requests before, all at once (default: as many as may be in flight, up to "
        f"{MAX_WARMUPS})",
    )


def check_workload(options: argparse.Namespace) -> None:
    """Flags that would have no effect. Raises UsageError."""
    if options.num_prefixes > 1 and not options.random_prefix_len:
        raise UsageError("--num-prefixes needs --random-prefix-len: how long they are")


def num_warmups(options: argparse.Namespace) -> int:
    if options.num_warmups is not None:
        return int(options.num_warmups)
    return min(MAX_WARMUPS, max(each or MAX_WARMUPS for each in options.max_concurrency))


def random_prompts(
    options: argparse.Namespace, vocab_size: int, series: int | str = 0
) -> RandomPrompts:
    """What the workload's flags describe; another `series` has other tokens."""
    return RandomPrompts(
        input_len=options.input_len,
        output_len=options.output_len,
        range_ratio=getattr(options, "random_range_ratio", 0.0),
        prefix_len=getattr(options, "random_prefix_len", 0),
        num_prefixes=getattr(options, "num_prefixes", 1),
        vocab_size=vocab_size,
        seed=f"{options.seed} {series}",
    )


def model_of(options: argparse.Namespace) -> Path | None:
    """The model directory, however it was given."""
    if options.model is not None and options.model_flag is not None:
        raise UsageError("MODEL is given twice")
    found: Path | None = options.model or options.model_flag
    return found
