"""Checkpoints: what must be in one, what may, and the hash that names it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tokenreel.actors.runtime.actor import StartError
from tokenreel.actors.worker import weights
from tokenreel.actors.worker.weights import Checkpoint, DummyWeights, model_hash, weight_files

SHAPES = {"a.weight": (4, 6), "b.weight": (6,)}
CPU = torch.device("cpu")


def tensors() -> dict[str, torch.Tensor]:
    return {name: torch.randn(shape) for name, shape in SHAPES.items()}


def write(directory: Path, values: dict[str, torch.Tensor]) -> Path:
    save_file(values, directory / "model.safetensors")
    (directory / "config.json").write_text("{}")
    return directory


def check(directory: Path) -> None:
    with Checkpoint(directory, torch.float32, CPU) as checkpoint:
        checkpoint.check(SHAPES, lambda name: name.startswith("ignored"))


def test_tensors_are_converted_copies(tmp_path: Path) -> None:
    values = tensors()
    write(tmp_path, {name: value.bfloat16() for name, value in values.items()})
    check(tmp_path)
    with Checkpoint(tmp_path, torch.float32, CPU) as checkpoint:
        found = checkpoint("a.weight")
    assert torch.equal(found, values["a.weight"].bfloat16().float())
    found.zero_()
    with Checkpoint(tmp_path, torch.float32, CPU) as checkpoint:
        assert checkpoint("a.weight").any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a.weight": None}, "lacks tensor a.weight"),
        ({"extra": torch.zeros(1)}, "holds tensor extra, which"),
        ({"b.weight": torch.zeros(7)}, r"tensor b.weight has shape \[7\].*asks for \[6\]"),
        ({"b.weight": torch.zeros(6, dtype=torch.int8)}, "tensor b.weight is stored as I8"),
    ],
)
def test_what_does_not_fit_is_named(
    changes: dict[str, torch.Tensor | None], message: str, tmp_path: Path
) -> None:
    values = {name: value for name, value in (tensors() | changes).items() if value is not None}
    write(tmp_path, values)
    with pytest.raises(StartError, match=message) as error:
        check(tmp_path)
    assert "\n" not in str(error.value)


def test_tensors_that_are_known_to_be_unused_may_be_there(tmp_path: Path) -> None:
    check(write(tmp_path, tensors() | {"ignored.weight": torch.zeros(2)}))


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, tensors()) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StartError, match="model.safetensors is no complete safetensors file"):
        check(tmp_path)


def test_shards_are_found_through_their_index(tmp_path: Path) -> None:
    values = tensors()
    for number, name in enumerate(SHAPES):
        save_file({name: values[name]}, tmp_path / f"part-{number}.safetensors")
    index = {"weight_map": {name: f"part-{n}.safetensors" for n, name in enumerate(SHAPES)}}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    check(tmp_path)
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(StartError, match="part-1.safetensors is missing"):
        check(tmp_path)
    path.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(StartError, match="outside its directory"):
        weight_files(tmp_path)


def test_a_directory_without_safetensors_hears_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="--load-format dummy"):
        weight_files(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(StartError, match="pickled"):
        weight_files(tmp_path)


@pytest.mark.parametrize("max_hashed_whole", [64 << 20, 0], ids=["whole", "sampled"])
def test_the_hash_names_configuration_and_weights(
    max_hashed_whole: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "MAX_HASHED_WHOLE", max_hashed_whole)
    values = tensors()

    def current() -> bytes:
        return model_hash(tmp_path, weight_files(tmp_path), None)

    write(tmp_path, values)
    first = current()
    assert len(first) == 16
    assert current() == first
    values["b.weight"][3] += 1
    write(tmp_path, values)
    second = current()
    (tmp_path / "config.json").write_text("{ }")
    hashes = {first, second, current(), model_hash(tmp_path, [], 0), model_hash(tmp_path, [], 1)}
    assert len(hashes) == 5


def test_dummy_weights_follow_from_seed_and_name() -> None:
    def make(seed: int) -> DummyWeights:
        return DummyWeights(SHAPES, torch.float32, CPU, seed)

    assert torch.equal(make(1)("a.weight"), make(1)("a.weight"))
    assert not torch.equal(make(1)("a.weight"), make(2)("a.weight"))
    assert make(1)("a.weight").shape == (4, 6)
