"""Where a model's tensors come from: safetensors files, or a seed; and the hash that names them.

Files are mapped, not read: a tensor's bytes are touched once, when it is copied to its place. What
a checkpoint holds is compared with what the model needs before anything is loaded.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tokenreel.actors.runtime.actor import StartError
from tokenreel.actors.worker.model_config import CONFIG_FILE, DecoderConfig

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
MAX_NAMES_IN_MESSAGE = 4
MAX_HASHED_WHOLE = 64 << 20
"""Weight files up to this size are hashed completely, larger ones by samples."""
SAMPLE_BYTES = 4096

Shapes = Mapping[str, tuple[int, ...]]


class Checkpoint:
    """The weight files of a model directory, open. Call it with a tensor's name."""

    def __init__(self, directory: Path, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device
        self._exits = ExitStack()
        self._files: dict[str, Any] = {}
        self.paths = weight_files(directory)
        for path in self.paths:
            self._open(path)

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.clear()
        self._exits.close()

    def __call__(self, name: str) -> Tensor:
        """A copy of the tensor: the file may go afterwards."""
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor.to(device=self._device, dtype=self._dtype, copy=True)

    def check(self, shapes: Shapes, ignored: Callable[[str], bool]) -> None:
        """Raises `StartError` unless the files hold exactly these tensors, in these shapes."""
        missing = [name for name in shapes if name not in self._files]
        if missing:
            raise StartError(f"the checkpoint lacks {_some(missing)}; is the download complete?")
        unexpected = [name for name in self._files if name not in shapes and not ignored(name)]
        if unexpected:
            raise StartError(
                f"the checkpoint holds {_some(unexpected)}, which its config.json does not ask "
                "for; the files and the configuration are of different models"
            )
        for name, shape in shapes.items():
            view = self._files[name].get_slice(name)
            found = tuple(view.get_shape())
            if found != shape:
                raise StartError(
                    f"tensor {name} has shape {list(found)}, but config.json asks for "
                    f"{list(shape)}; the files and the configuration are of different models"
                )
            if not view.get_dtype().startswith(("F32", "F16", "BF16", "F64")):
                raise StartError(
                    f"tensor {name} is stored as {view.get_dtype()}, which is not supported; use "
                    "the float16, bfloat16 or float32 model"
                )

    def _open(self, path: Path) -> None:
        try:
            file = self._exits.enter_context(safe_open(path, framework="pt"))
        except FileNotFoundError:
            raise StartError(f"{path} is missing, though {INDEX_FILE} names it") from None
        except (SafetensorError, OSError) as error:
            raise StartError(f"{path} is no complete safetensors file: {error}") from error
        self._files.update(dict.fromkeys(file.keys(), file))


class DummyWeights:
    """Random weights in the shapes of a model, the same for the same seed."""

    def __init__(self, shapes: Shapes, dtype: torch.dtype, device: torch.device, seed: int) -> None:
        self._shapes = shapes
        self._dtype = dtype
        self._device = device
        self._seed = seed

    def __call__(self, name: str) -> Tensor:
        shape = self._shapes[name]
        # By name, so that the order of reading has no say.
        digest = hashlib.blake2b(f"{self._seed}:{name}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        tensor = torch.empty(shape, dtype=torch.float32).normal_(0.0, 0.02, generator=generator)
        if name.endswith("norm.weight"):
            tensor += 1.0
        return tensor.to(device=self._device, dtype=self._dtype)


def ignores(config: DecoderConfig) -> Callable[[str], bool]:
    """Which tensors may lie in a checkpoint without being used."""

    def is_ignored(name: str) -> bool:
        # Written by old exporters; both follow from what the model has anyway.
        is_tied_head = name == "lm_head.weight" and config.tie_word_embeddings
        return is_tied_head or name.endswith("rotary_emb.inv_freq")

    return is_ignored


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a model directory, in a fixed order."""
    index = directory / INDEX_FILE
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StartError(f"{index} is no index of weight files: {error!r}") from error
        # A name is a file beside the index: it leads nowhere else.
        if any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise StartError(f"{index} names files outside its directory")
        return [directory / name for name in names]
    if (directory / SINGLE_FILE).exists():
        return [directory / SINGLE_FILE]
    if any(directory.glob("*.bin")) or any(directory.glob("*.pt")):
        raise StartError(
            f"{directory} holds its weights as pickled PyTorch files, which are not read, because "
            "loading one can run code; use the safetensors version of the model"
        )
    raise StartError(
        f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}; use a model directory with "
        "safetensors weights, or --load-format dummy for random ones"
    )


def model_hash(directory: Path, paths: Iterable[Path], dummy_seed: int | None) -> bytes:
    """16 bytes that name config.json and all weights, made without reading every byte.

    Each weight file counts with its name, size and header (names, types, shapes and places of all
    tensors). A file up to MAX_HASHED_WHOLE is hashed whole; of a larger one, the middle
    SAMPLE_BYTES of every tensor are, so that a model of many gigabytes is named in a moment and
    any training step, which moves every tensor, shows.
    """
    digest = hashlib.blake2b(digest_size=16, person=b"tokenreel-model")
    _add(digest, (directory / CONFIG_FILE).read_bytes())
    if dummy_seed is not None:
        _add(digest, f"dummy:{dummy_seed}".encode())
        return digest.digest()
    for path in paths:
        _add(digest, path.name.encode())
        _add_weight_file(digest, path)
    return digest.digest()


def _add_weight_file(digest: "hashlib.blake2b", path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= MAX_HASHED_WHOLE:
            _add(digest, file.read())
            return
        header_size = struct.unpack("<Q", file.read(8))[0]
        header = file.read(header_size)
        _add(digest, struct.pack("<Q", size))
        _add(digest, header)
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        for entry in entries.values():
            begin, end = entry["data_offsets"]
            length = min(end - begin, SAMPLE_BYTES)
            file.seek(8 + header_size + begin + (end - begin - length) // 2)
            _add(digest, file.read(length))


def _add(digest: "hashlib.blake2b", part: bytes) -> None:
    digest.update(struct.pack("<Q", len(part)))
    digest.update(part)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:MAX_NAMES_IN_MESSAGE])
    more = len(names) - MAX_NAMES_IN_MESSAGE
    noun = "tensor" if len(names) == 1 else "tensors"
    return f"{noun} {shown}" + (f" and {more} more" if more > 0 else "")
