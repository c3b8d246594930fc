"""`engine-up` before any process starts: flags become options, and mistakes become one line."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokenreel.messages.options import EngineOptions
from tokenreel.tools.up import announce, main
from tokenreel.tools.up_checks import Unusable, check_files, check_model, open_listener
from tokenreel.tools.up_flags import (
    DEMO_MODEL,
    default_journal_dir,
    make_parser,
    options_from,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "some-model"
    path.mkdir()
    (path / "config.json").write_text('{"vocab_size": 100}')
    (path / "tokenizer.json").write_text("{}")
    (path / "model.safetensors").touch()
    return path


@pytest.fixture(autouse=True)
def no_key_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENREEL_API_KEY", raising=False)


def parse(*arguments: str) -> EngineOptions:
    return options_from(make_parser().parse_args(list(arguments)))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a mistake gets; the exit code is 2."""
    exit_code: object
    try:
        exit_code = main(list(arguments))
    except SystemExit as stop:
        exit_code = stop.code
    captured = capsys.readouterr()
    assert (exit_code, captured.out) == (2, "")
    assert captured.err.startswith("engine-up: ") and captured.err.count("\n") == 1
    return captured.err


def test_without_flags_the_options_are_their_documented_defaults() -> None:
    assert parse() == EngineOptions(
        model=str(DEMO_MODEL),
        served_model_name="tokenreel-demo",
        journal_dir=str(default_journal_dir()),
    )


def test_every_flag_reaches_its_option(tmp_path: Path) -> None:
    flags = (
        "m --served-model-name n --dtype float16 --quantization int8 --device cpu "
        "--batch-invariant --load-format dummy --seed 3 "
        "--max-model-len 99 --chat-template t.jinja --stub-worker --host ::1 --port 81 "
        "--api-key k --max-body-bytes 1M --max-num-seqs 4 --max-num-batched-tokens 5 "
        "--max-num-queued-reqs 6 --scheduling-policy priority --pipeline-depth 3 "
        "--kv-cache-memory-bytes 2G --num-gpu-blocks-override 7 --gpu-memory-utilization 0.5 "
        "--block-size 8 --no-enable-prefix-caching --journal-dir j --journal-max-bytes 3M "
        "--journal-sync step --on-journal-error gap --debug-view --no-pin-worker "
        "--drain-timeout 1.5"
    )
    here = Path.cwd()
    assert parse(*flags.split()) == EngineOptions(
        model=str(here / "m"),
        served_model_name="n",
        dtype="float16",
        quantization="int8",
        batch_invariant=True,
        device="cpu",
        load_format="dummy",
        seed=3,
        max_model_len=99,
        chat_template=str(here / "t.jinja"),
        stub_worker=True,
        host="::1",
        port=81,
        api_key="k",
        max_body_bytes=1 << 20,
        max_num_seqs=4,
        max_num_batched_tokens=5,
        max_num_queued_reqs=6,
        scheduling_policy="priority",
        pipeline_depth=3,
        kv_cache_memory_bytes=2 << 30,
        num_gpu_blocks_override=7,
        gpu_memory_utilization=0.5,
        block_size=8,
        enable_prefix_caching=False,
        journal_dir=str(here / "j"),
        journal_max_bytes=3 << 20,
        journal_sync="step",
        on_journal_error="gap",
        debug_view=True,
        pin_worker=False,
        drain_timeout_s=1.5,
    )


def test_every_option_has_a_flag() -> None:
    flags = {action.dest for action in make_parser()._actions}
    fields = set(EngineOptions.__struct_fields__)
    assert fields - flags == {"drain_timeout_s"}  # Its flag names no unit: --drain-timeout.


def test_a_model_is_served_under_the_name_of_its_directory(model: Path) -> None:
    assert parse(str(model) + "/").served_model_name == "some-model"


def test_no_journal_means_none() -> None:
    assert parse("--no-journal").journal_dir is None


def test_journals_are_kept_where_a_users_state_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_journal_dir() == Path("/state/tokenreel/journals")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/user")
    assert default_journal_dir() == Path("/home/user/.local/state/tokenreel/journals")


def test_without_a_home_journals_ask_for_a_place_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody(_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", classmethod(nobody))
    assert main([]) == 2
    assert "--journal-dir" in capsys.readouterr().err
    assert parse("--no-journal").journal_dir is None


@pytest.mark.parametrize("key", ["", " ", "a b", "a\nb"])
def test_a_key_that_protects_nothing_or_cannot_be_sent_is_refused(
    key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--api-key", key])
    monkeypatch.setenv("TOKENREEL_API_KEY", key)
    assert main([]) == 2
    assert "TOKENREEL_API_KEY" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--journal-dir", "--served-model-name", "--chat-template"])
def test_an_empty_name_or_path_is_refused(flag: str) -> None:
    with pytest.raises(SystemExit):
        main([flag, ""])


def test_the_api_key_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENREEL_API_KEY", "from-outside")
    assert parse().api_key == "from-outside"
    assert parse("--api-key", "given").api_key == "given"


@pytest.mark.parametrize(
    ("text", "size"), [("1048576", 1 << 20), ("2m", 2 << 20), ("1.5GiB", 3 << 29), ("1T", 1 << 40)]
)
def test_sizes_take_a_unit(text: str, size: int) -> None:
    assert parse("--journal-max-bytes", text).journal_max_bytes == size


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--port 65536", "--port: 65536 is too large (at most 65535)"),
        ("--port many", "--port: 'many' is not a whole number"),
        ("--seed -1", "--seed: -1 is too small"),
        ("--max-num-seqs 0", "--max-num-seqs: 0 is too small (at least 1)"),
        ("--max-num-batched-tokens 0", "--max-num-batched-tokens: 0"),
        ("--max-model-len 0", "--max-model-len: 0"),
        ("--num-gpu-blocks-override 0", "--num-gpu-blocks-override: 0"),
        ("--num-gpu-blocks-override 99999999", "--num-gpu-blocks-override: 99999999 is too large"),
        ("--block-size 12", "--block-size: 12 is not a power of two"),
        ("--block-size 2048", "--block-size: 2048 is too large"),
        ("--pipeline-depth 4", "--pipeline-depth: 4 is too large (at most 3)"),
        ("--gpu-memory-utilization 1.1", "--gpu-memory-utilization: 1.1 is not above 0"),
        ("--gpu-memory-utilization nan", "--gpu-memory-utilization: nan is not above 0"),
        ("--kv-cache-memory-bytes 2X", "--kv-cache-memory-bytes: '2X' is not a size"),
        pytest.param(
            f"--kv-cache-memory-bytes {'9' * 400}", "is too large", id="a size beyond all floats"
        ),
        ("--journal-max-bytes 10K", "--journal-max-bytes: 10240 is too small"),
        ("--journal-sync often", "--journal-sync: invalid choice: 'often'"),
        ("--dtype int8", "--dtype: invalid choice: 'int8'"),
        ("--quantization awq", "--quantization: invalid choice: 'awq'"),
        ("--drain-timeout -1", "--drain-timeout: -1 is not between 0 and"),
        ("--start-timeout inf", "--start-timeout: inf is not between 0 and"),
        ("--max-num-seq 4", "unrecognized arguments: --max-num-seq"),
        ("a b", "unrecognized arguments: b"),
    ],
)
def test_a_wrong_flag_gets_one_line(
    capsys: pytest.CaptureFixture[str], flags: str, complaint: str
) -> None:
    assert complaint in refusal(capsys, *flags.split())


def test_help_shows_every_flag_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for action in make_parser()._actions:
        assert all(option in text for option in action.option_strings)
    assert text.count("example:") == 6
    assert "(default: 8000)" in text and "(default: 1G)" in text and "%" not in text


def break_model(model: Path, how: str) -> None:
    match how:
        case "is gone":
            for path in model.iterdir():
                path.unlink()
            model.rmdir()
        case "is a file":
            break_model(model, "is gone")
            model.touch()
        case "has no config":
            (model / "config.json").unlink()
        case "has no tokenizer":
            (model / "tokenizer.json").unlink()
        case "has no weights":
            (model / "model.safetensors").rename(model / "model.bin")
        case "has a torn config":
            (model / "config.json").write_text('{"vocab_size": 10')
        case "has a list for a config":
            (model / "config.json").write_text("[]")
        case "has bytes for a tokenizer":
            (model / "tokenizer.json").write_bytes(b"\xff\xfe")


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("is gone", "does not exist"),
        ("is a file", "is a file; MODEL is the directory"),
        ("has no config", "it has no config.json"),
        ("has no tokenizer", "it has no tokenizer.json"),
        ("has no weights", "has no *.safetensors file"),
        ("has a torn config", "config.json is not JSON"),
        ("has a list for a config", "config.json is not a JSON object"),
        ("has bytes for a tokenizer", "tokenizer.json is not UTF-8 text"),
    ],
)
def test_a_broken_model_directory_gets_one_line(
    capsys: pytest.CaptureFixture[str], model: Path, how: str, complaint: str
) -> None:
    break_model(model, how)
    assert complaint in refusal(capsys, str(model), "--no-journal", "--port", "0")


@pytest.mark.parametrize("flags", ["--load-format dummy", "--stub-worker"])
def test_weights_are_missed_only_where_they_are_needed(model: Path, flags: str) -> None:
    break_model(model, "has no weights")
    check_files(parse(str(model), "--no-journal", *flags.split()))
    with pytest.raises(Unusable):
        check_model(model, needs_weights=True)


def test_an_unreadable_chat_template_gets_one_line(
    capsys: pytest.CaptureFixture[str], model: Path
) -> None:
    line = refusal(capsys, str(model), "--no-journal", "--chat-template", str(model / "none"))
    assert "--chat-template" in line and "No such file" in line


def test_a_journal_directory_that_cannot_be_made_gets_one_line(
    capsys: pytest.CaptureFixture[str], model: Path
) -> None:
    line = refusal(capsys, str(model), "--journal-dir", str(model / "config.json" / "journals"))
    assert "Not a directory" in line and "--no-journal" in line


def test_the_journal_directory_is_made_and_private(model: Path, tmp_path: Path) -> None:
    check_files(parse(str(model), "--journal-dir", str(tmp_path / "new" / "journals")))
    assert (tmp_path / "new" / "journals").stat().st_mode & 0o777 == 0o700


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_busy_port_gets_one_line(
    capsys: pytest.CaptureFixture[str], model: Path, busy_port: int
) -> None:
    line = refusal(capsys, str(model), "--no-journal", "--port", str(busy_port))
    assert f"port {busy_port} on 127.0.0.1 is in use" in line and "--port" in line


def test_a_host_that_is_not_here_gets_one_line(
    capsys: pytest.CaptureFixture[str], model: Path
) -> None:
    line = refusal(capsys, str(model), "--no-journal", "--host", "192.0.2.1", "--port", "0")
    assert "--host 192.0.2.1 is no address of this machine" in line


def test_the_listener_takes_connections_before_any_actor_runs() -> None:
    with open_listener("127.0.0.1", 0) as listener:
        socket.create_connection(listener.getsockname()).close()


def test_the_announcement_has_the_address_and_a_command_to_try(model: Path) -> None:
    options = parse(str(model), "--port", "8123", "--chat-template", "t")
    lines = announce(options)
    assert "some-model is ready at http://127.0.0.1:8123" in lines[0]
    assert lines[-1].startswith("  curl http://127.0.0.1:8123/v1/chat/completions ")
    body = lines[-1].partition(" -d '")[2].removesuffix("'")
    assert json.loads(body)["model"] == "some-model"


def test_a_model_without_a_chat_template_is_tried_with_a_completion(model: Path) -> None:
    assert "/v1/completions" in announce(parse(str(model)))[-1]
    (model / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert "/v1/chat/completions" in announce(parse(str(model)))[-1]


def test_the_command_to_try_never_shows_the_key() -> None:
    text = "\n".join(announce(parse("--api-key", "secret")))
    assert "secret" not in text
    assert "Bearer $TOKENREEL_API_KEY" in text


def test_an_open_door_is_mentioned() -> None:
    assert any("whoever reaches" in line for line in announce(parse("--host", "0.0.0.0")))
    assert not any("whoever reaches" in line for line in announce(parse()))
    assert "http://127.0.0.1:8000/" in announce(parse("--host", "0.0.0.0"))[-1]
    assert "http://[::1]:8000/" in announce(parse("--host", "::1"))[-1]


def test_it_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, tokenreel.tools.up\n"
        "sys.exit(bool({'torch', 'transformers', 'starlette', 'uvloop'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_the_debug_view_needs_a_journal(capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "--debug-view", "--no-journal")
    assert "--debug-view shows the run's journal" in line
