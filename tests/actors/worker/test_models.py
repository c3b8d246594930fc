"""Our models against transformers': the same logits for the same tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tokenreel.actors.worker.models import compiled_decoder
from tokenreel.actors.worker.models.model import Model
from tokenreel.kernels.cpu.sampling import NOT_FINITE

TOLERANCE = 1e-4
"""On logits of small models in float32, absolute and relative."""


@pytest.mark.parametrize("is_compiled", [True, False], ids=["compiled", "torch"])
@pytest.mark.parametrize("chunks", [[41], [1, 16, 3, 1, 20]], ids=["whole", "chunked"])
def test_logits_agree_with_transformers(
    variant: str,
    chunks: list[int],
    is_compiled: bool,
    small_model: Callable[[str], Any],
    load_decoder: Callable[..., Model],
    all_logits: Callable[..., torch.Tensor],
    tokens: list[int],
) -> None:
    model = small_model(variant)
    expected = model.reference_logits(tokens)
    assert expected.std() > 0.5, "a model that says nothing proves nothing"
    decoder = model.decoder if is_compiled else load_decoder(model.directory, is_compiled=False)
    found = all_logits(decoder, tokens, chunks)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("wanted", [[], [40], [2, 17, 21, 22, 39]])
@pytest.mark.parametrize("chunks", [[41], [1, 16, 3, 1, 20]], ids=["whole", "chunked"])
@pytest.mark.parametrize(
    ("dtype", "quantization"), [("float32", None), ("bfloat16", None), ("bfloat16", "int8")]
)
def test_what_is_not_wanted_changes_nothing(
    dtype: str,
    quantization: str | None,
    chunks: list[int],
    wanted: list[int],
    small_model: Callable[[str], Any],
    load_decoder: Callable[..., Model],
    all_logits: Callable[..., torch.Tensor],
    tokens: list[int],
) -> None:
    """Keys and values are those of all tokens; behind them only what is asked for is computed."""
    directory = small_model("qwen3").directory
    for num_threads in (1, 2):
        decoder = load_decoder(directory, dtype, num_threads=num_threads, quantization=quantization)
        expected = all_logits(decoder, tokens, chunks)[wanted]
        assert torch.equal(all_logits(decoder, tokens, chunks, wanted), expected)
    reference = load_decoder(directory, dtype, is_compiled=False)
    expected = all_logits(reference, tokens, chunks)[wanted]
    torch.testing.assert_close(all_logits(reference, tokens, chunks, wanted), expected)


def test_a_sharded_checkpoint_is_the_same_model(
    small_model: Callable[[str], Any],
    load_decoder: Callable[[Path], Model],
    all_logits: Callable[..., torch.Tensor],
    tokens: list[int],
    tmp_path: Path,
) -> None:
    model = small_model("llama_tied")
    model.reference.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = all_logits(load_decoder(tmp_path), tokens, [41])
    assert torch.equal(found, all_logits(model.decoder, tokens, [41]))


@pytest.mark.parametrize("rope_variant", ["llama", "llama_rope_llama3", "llama_rope_yarn"])
def test_a_config_of_transformers_4_is_the_same_model(
    rope_variant: str,
    small_model: Callable[[str], Any],
    load_decoder: Callable[[Path], Model],
    edit_config: Callable[..., None],
    all_logits: Callable[..., torch.Tensor],
    tokens: list[int],
    tmp_path: Path,
) -> None:
    model = small_model(rope_variant)
    model.reference.save_pretrained(tmp_path)
    rope = dict(model.reference.config.rope_parameters)
    theta = rope.pop("rope_theta")
    scaling = None if rope["rope_type"] == "default" else rope
    edit_config(
        tmp_path,
        rope_parameters=None,
        rope_theta=theta,
        rope_scaling=scaling,
        dtype=None,
        torch_dtype="float32",
    )
    found = all_logits(load_decoder(tmp_path), tokens, [41])
    assert torch.equal(found, all_logits(model.decoder, tokens, [41]))


@pytest.mark.parametrize("is_compiled", [True, False], ids=["compiled", "torch"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_sixteen_bits_stay_near_float32(
    dtype: str,
    tolerance: float,
    is_compiled: bool,
    small_model: Callable[[str], Any],
    load_decoder: Callable[..., Model],
    all_logits: Callable[..., torch.Tensor],
    tokens: list[int],
) -> None:
    model = small_model("qwen3")
    expected = model.reference_logits(tokens)
    decoder = load_decoder(model.directory, dtype, is_compiled=is_compiled)
    found = all_logits(decoder, tokens, [30, 11])
    # 8 or 11 bits of mantissa over three layers; the scale is the logits' own.
    assert (found - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize("is_compiled", [True, False], ids=["compiled", "torch"])
def test_greedy_is_the_first_of_the_largest_logits(
    is_compiled: bool, small_model: Callable[[str], Any], load_decoder: Callable[..., Model]
) -> None:
    """NOT_FINITE if any logit is not a number."""
    model = small_model("llama")
    decoder = load_decoder(model.directory, is_compiled=is_compiled)
    hidden = torch.randn(9, 32, generator=torch.Generator().manual_seed(0))
    hidden[7, 3] = torch.nan
    with torch.inference_mode():
        logits = decoder.logits(hidden)
        token_ids = decoder.greedy(hidden)
    expected = logits.argmax(1)
    expected[7] = NOT_FINITE
    assert token_ids.tolist() == expected.tolist()


def test_a_vocabulary_that_is_screened_yields_the_same_tokens(
    small_model: Callable[[str], Any],
    load_decoder: Callable[..., Model],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twice for each number of rows: what one step leaves behind must not mislead the next."""
    monkeypatch.setattr(compiled_decoder, "MIN_SCREENED", 0)
    decoder = load_decoder(small_model("llama").directory)
    for seed, num_rows in enumerate([1, 9, 70, 70, 9, 1]):
        hidden = torch.randn(num_rows, 32, generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            expected = decoder.logits(hidden).argmax(1).tolist()
            assert decoder.greedy(hidden).tolist() == expected


@pytest.mark.parametrize("num_rows", [32, 33, 64, 200])
def test_what_amx_reads_behind_the_last_row_is_there(
    num_rows: int, small_model: Callable[[str], Any], load_decoder: Callable[..., Any]
) -> None:
    """A tile has 16 rows, two have 32, however few are asked for."""
    decoder = load_decoder(small_model("llama").directory, "bfloat16")
    decoder.greedy(torch.ones(num_rows, 32))
    assert len(decoder._scratch.rows) >= (num_rows + 31) * 32
