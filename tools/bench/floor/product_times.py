"""How long a model's products take one core of this machine, by numpy in a process of its own.

    python -m tokenreel.tools.bench.floor.product_times   < plan.json   > times.json

numpy's BLAS (OpenBLAS, float32) stands for what the machine can do: it is well kept, everybody has
it, and it is nobody's engine. Weights lie with their outputs side by side, as whoever packs them
once would have them: with few rows that is twice as fast as a checkpoint's own order. An engine may
still be faster, with weights in 16 or 8 bits, or if it need not compute every logit to the last
bit. Attention, norms and sampling are no products and are not in it.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from time import thread_time
from typing import Any

import msgspec

from tokenreel.tools.bench.floor.model_shape import ModelShape, Product
from tokenreel.tools.bench.problem import Problem

MAX_WEIGHT_BYTES = 512 << 20
"""Of one layer after the other, so that they come from memory as they do in the model, and as much
of the head; a model with more has the time of its later layers, and of its later logits, reckoned
from that of the first."""
MIN_S = 0.3
MIN_REPEATS = 3
MAX_REPEATS = 1000
TIMEOUT_S = 300.0
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


class NoTimes(Problem):
    """The child process did not measure: one line, or what it printed."""


class Plan(msgspec.Struct, frozen=True):
    shape: ModelShape
    layer_rows: list[int]
    head_rows: list[int]


class ProductTimes(msgspec.Struct, frozen=True):
    """CPU seconds by number of rows: of all layers' products together, and of the head's."""

    layers_s: dict[int, float]
    head_s: dict[int, float]
    gflops: dict[int, float]
    """The rate of the layers' products."""


def measure_products(plan: Plan) -> ProductTimes:
    """Raises NoTimes."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=msgspec.json.encode(plan),
            capture_output=True,
            timeout=TIMEOUT_S,
            env={**os.environ, **dict.fromkeys(ONE_THREAD, "1")},
        )
    except subprocess.TimeoutExpired:
        raise NoTimes(f"the model's products took longer than {TIMEOUT_S:g} s") from None
    if done.returncode:
        raise NoTimes(done.stderr.decode(errors="replace").strip()[-2000:])
    return msgspec.json.decode(done.stdout, type=ProductTimes)


def measured_part(head: Product) -> Product:
    """Its first outputs, as many as MAX_WEIGHT_BYTES hold."""
    most = max(1, MAX_WEIGHT_BYTES // (4 * head.num_inputs))
    return Product(min(head.num_outputs, most), head.num_inputs)


def time_products(plan: Plan) -> ProductTimes:
    """In this process, which should have one BLAS thread."""
    import numpy as np

    rng = np.random.default_rng(0)

    def weight(product: Product) -> Any:  # [num_inputs, num_outputs]
        shape = (product.num_inputs, product.num_outputs)
        return rng.standard_normal(shape, dtype=np.float32)

    shape = plan.shape
    layer_bytes = sum(4 * each.num_outputs * each.num_inputs for each in shape.layer)
    num_layers = max(1, min(shape.num_hidden_layers, MAX_WEIGHT_BYTES // layer_bytes))
    layers = [[weight(product) for product in shape.layer] for _ in range(num_layers)]
    weights = [weight for layer in layers for weight in layer]
    scale = shape.num_hidden_layers / num_layers
    layers_s = {rows: scale * _time_of(weights, rows) for rows in plan.layer_rows}
    head_part = measured_part(shape.head)
    head, head_scale = [weight(head_part)], shape.head.num_outputs / head_part.num_outputs
    head_s = {rows: head_scale * _time_of(head, rows) for rows in plan.head_rows}
    num_weights = shape.num_hidden_layers * layer_bytes / 4
    gflops = {rows: 2e-9 * rows * num_weights / time_s for rows, time_s in layers_s.items()}
    return ProductTimes(layers_s, head_s, gflops)


def _time_of(weights: Sequence[Any], num_rows: int) -> float:
    """The quickest of several times through all of them."""
    import numpy as np

    work = []
    for weight in weights:
        num_inputs, num_outputs = weight.shape
        inputs = np.ones((num_rows, num_inputs), dtype=np.float32)
        work.append((inputs, weight, np.empty((num_rows, num_outputs), dtype=np.float32)))

    def once() -> None:
        for inputs, weight, outputs in work:
            np.matmul(inputs, weight, out=outputs)

    return _quickest(once)


def _quickest(work: Callable[[], None]) -> float:
    work()
    quickest, total, num_times = float("inf"), 0.0, 0
    while num_times < MIN_REPEATS or (total < MIN_S and num_times < MAX_REPEATS):
        began = thread_time()
        work()
        took = thread_time() - began
        quickest, total, num_times = min(quickest, took), total + took, num_times + 1
    return quickest


if __name__ == "__main__":
    found = time_products(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan))
    sys.stdout.buffer.write(msgspec.json.encode(found))
