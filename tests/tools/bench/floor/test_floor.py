"""The floor adds up, and its parts are measured at the shapes that the model has."""

import json
from array import array
from pathlib import Path

import pytest

from tokenreel.tools.bench.client.load import Measured, Outcome
from tokenreel.tools.bench.floor import product_times
from tokenreel.tools.bench.floor.floor import Lengths, cpu_share, floor_of, layer_rows, model_s
from tokenreel.tools.bench.floor.model_shape import ModelShape, NoShape, Product, read_shape
from tokenreel.tools.bench.floor.product_times import (
    MAX_WEIGHT_BYTES,
    Plan,
    ProductTimes,
    measure_products,
    measured_part,
    time_products,
)
from tokenreel.tools.bench.results.figures import figures_of
from tokenreel.tools.up_flags import DEMO_MODEL

SHAPE = ModelShape(
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=50,
)
LENGTHS = Lengths(num_input_tokens=10, num_output_tokens=5)


def test_every_product_of_a_decoder_is_there() -> None:
    assert SHAPE.layer == [Product(16, 8), Product(8, 8), Product(32, 8), Product(8, 16)]
    assert SHAPE.head == Product(50, 8)
    shape = read_shape(DEMO_MODEL)
    weights = sum(each.num_outputs * each.num_inputs for each in shape.layer)
    total = shape.num_hidden_layers * weights + shape.head.num_outputs * shape.head.num_inputs
    assert total < (DEMO_MODEL / "model.safetensors").stat().st_size < 4.1 * total


def test_a_config_that_tells_no_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoShape, match="No such file"):
        read_shape(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    with pytest.raises(NoShape, match="missing required field"):
        read_shape(tmp_path)


def test_products_are_measured_for_every_number_of_rows() -> None:
    times = measure_products(Plan(SHAPE, [1, 7], [1]))
    assert times.layers_s.keys() == times.gflops.keys() == {1, 7}
    assert min(*times.layers_s.values(), *times.head_s.values(), *times.gflops.values()) > 0


def test_of_a_large_vocabulary_a_part_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    part = measured_part(Product(128_256, 4096))
    assert part == Product(32_768, 4096)
    assert 4 * part.num_outputs * part.num_inputs == MAX_WEIGHT_BYTES
    assert measured_part(SHAPE.head) == SHAPE.head
    monkeypatch.setattr(product_times, "MAX_WEIGHT_BYTES", 4 * 8 * 20)
    monkeypatch.setattr(product_times, "_time_of", lambda weights, rows: weights[0].shape[1])
    assert time_products(Plan(SHAPE, [], [1])).head_s == {1: 50}, "20 of 50 outputs, scaled"


def test_a_token_costs_its_share_of_a_step_and_of_its_prompt() -> None:
    assert layer_rows([1, 8, 256], LENGTHS) == [1, 8, 10, 80, 256, 512]
    times = ProductTimes(layers_s={2: 4.0, 20: 10.0}, head_s={2: 1.0}, gflops={})
    decode, prompt, head = 4.0 / 2 * 4 / 5, 10.0 / 20 * 10 / 5, 1.0 / 2
    assert model_s(2, LENGTHS, times) == pytest.approx(decode + prompt + head)


def test_the_floor_is_all_cores_over_the_sum_of_its_parts() -> None:
    stamps = array("d", [0.0])
    outcome = Outcome(0.0, 1.0, stamps=stamps, num_output_tokens=100)
    measured = Measured([outcome], 0.0, duration_s=1.0, cpu_s=0.001, num_cut_short=0)
    http = figures_of(measured, {}, max_concurrency=2, limits_ms={})
    times = ProductTimes(layers_s={2: 4e-5, 20: 1e-4}, head_s={2: 1e-5}, gflops={})
    floor = floor_of(2, LENGTHS, times, http, http_cpu_s=0.002, num_cores=2)
    assert (floor.http_us, floor.generator_us) == (pytest.approx(20), pytest.approx(10))
    assert floor.model_us == pytest.approx(1e6 * model_s(2, LENGTHS, times))
    assert floor.tokens_per_s == pytest.approx(2e6 / (30 + floor.model_us))
    engine = figures_of(measured, {"worker": 0.02, "core": 0.01}, max_concurrency=2, limits_ms={})
    assert cpu_share(engine, floor) == pytest.approx((30 + floor.model_us) / 310)
