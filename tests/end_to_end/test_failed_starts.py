"""An engine that cannot start says what to do in one line, within seconds, and leaves nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from running_engine import RunningEngine

from tokenreel.tools.up_flags import DEMO_MODEL

StartEngine = Callable[..., RunningEngine]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the demo model, to break."""
    return Path(shutil.copytree(DEMO_MODEL, tmp_path / "model"))


def complaint(engine: RunningEngine, exit_code: int) -> str:
    assert engine.wait_for_exit() == exit_code, engine.output
    assert engine.left_behind() == []
    assert "Traceback" not in engine.output
    (line,) = engine.complaints
    return line


def change_config(model: Path, **fields: object) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_model_that_is_not_there(start_engine: StartEngine, tmp_path: Path) -> None:
    line = complaint(start_engine(str(tmp_path / "nowhere")), 2)
    assert f"{tmp_path / 'nowhere'} does not exist" in line


def test_a_directory_that_is_no_model(start_engine: StartEngine, tmp_path: Path) -> None:
    assert "it has no config.json" in complaint(start_engine(str(tmp_path)), 2)


def test_weights_that_were_cut_while_they_were_copied(
    start_engine: StartEngine, model: Path
) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: 1 << 20])
    line = complaint(start_engine(str(model)), 1)
    assert line.startswith("engine-up: worker failed: ") and "model.safetensors" in line


def test_an_architecture_that_is_not_supported_is_named_with_those_that_are(
    start_engine: StartEngine, model: Path
) -> None:
    change_config(model, architectures=["MambaForCausalLM"], model_type="mamba")
    line = complaint(start_engine(str(model)), 1)
    assert "MambaForCausalLM" in line and "LlamaForCausalLM" in line and "Qwen3" in line


def test_weights_of_another_shape_than_the_config_says(
    start_engine: StartEngine, model: Path
) -> None:
    change_config(model, intermediate_size=500)
    line = complaint(start_engine(str(model)), 1)
    assert line.startswith("engine-up: worker failed: ") and "500" in line


def test_memory_that_holds_no_block(start_engine: StartEngine) -> None:
    line = complaint(start_engine("--kv-cache-memory-bytes", "1000"), 1)
    assert line.startswith("engine-up: worker failed: ") and "--kv-cache-memory-bytes" in line


def test_a_tokenizer_that_is_none(start_engine: StartEngine, model: Path) -> None:
    (model / "tokenizer.json").write_text('{"version": "1.0"}')
    line = complaint(start_engine(str(model), "--stub-worker"), 1)
    assert "tokenizer.json" in line


def test_a_chat_template_with_a_mistake(start_engine: StartEngine, tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text("{% for message in messages %}")
    line = complaint(start_engine("--stub-worker", "--chat-template", str(template)), 1)
    assert line.startswith("engine-up: input_processor failed: ") and "template" in line


def test_asked_to_stop_while_the_model_loads_it_stops(start_engine: StartEngine) -> None:
    engine = start_engine()
    engine.wait_for_line(" pid ")
    engine.stop()
    assert engine.complaints == []
    assert engine.left_behind() == []
