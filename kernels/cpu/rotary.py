"""Rotary position embedding of queries and keys, and the store of keys and values in their pages.

A head's pairs are its elements i and i + head_dim / 2. Source: Su et al., 2021. Before, queries
and keys may be normalized head by head, as Qwen3 does.
"""

from tokenreel.kernels.cpu.compiler import inlined, part
from tokenreel.kernels.cpu.norm import rms_norm
from tokenreel.kernels.cpu.vector import (
    LANES,
    broadcast,
    fma,
    load,
    store,
    store_apart,
)


@part
def rotate_and_store(
    first_token,
    end_token,
    shape,
    positions,
    slot_mapping,
    cosines,
    sines,
    query_gain,
    key_gain,
    eps,
    qkv,
    key_cache,
    value_cache,
):
    """For the tokens from `first_token` to `end_token`, one layer's. All arithmetic is in float32.

    shape: `attention_plan.AttentionShape`. positions: [num_tokens] int32. slot_mapping:
    [num_tokens] int64, block * block_size + offset; negative: the token is not stored.
    cosines, sines: flat [max_positions, head_dim / 2] float32.
    query_gain, key_gain: [padded head_dim] float32, or empty: not normalized.
    qkv: flat [num_tokens, num_heads + 2 * num_kv_heads, padded head_dim] float32; queries and keys
    are changed in place. Padding holds zeros, and is stored as such.
    key_cache: [num_blocks, num_kv_heads, padded head_dim, padded block_size];
    value_cache: [num_blocks, num_kv_heads, padded block_size, padded head_dim].
    """
    num_kv_heads, padded = key_cache.shape[1:3]
    num_rotated = shape.num_heads + num_kv_heads
    row_stride = (num_rotated + num_kv_heads) * padded
    for token in range(first_token, end_token):
        angle = positions[token] * (shape.head_dim // 2)
        for head in range(num_rotated):
            gain = query_gain if head < shape.num_heads else key_gain
            place = token * row_stride + head * padded
            if gain.size > 0:
                rms_norm(qkv, place, shape.head_dim, gain, 0, eps, qkv, place)
            _rotate(qkv, place, shape.head_dim // 2, cosines, sines, angle)
    # Head by head, since a page of one head stays in the first-level cache, and one of all may not.
    for head in range(num_kv_heads):
        for token in range(first_token, end_token):
            if slot_mapping[token] >= 0:
                key = token * row_stride + (shape.num_heads + head) * padded
                value = key + num_kv_heads * padded
                block, offset = divmod(slot_mapping[token], shape.block_size)
                _store(qkv, key, value, key_cache, value_cache, block, head, offset)


@inlined
def _store(qkv, key, value, key_cache, value_cache, block, head, offset):
    num_kv_heads, padded, padded_block = key_cache.shape[1:]
    page = (block * num_kv_heads + head) * padded * padded_block
    for i in range(0, padded, LANES):
        key_place = page + i * padded_block + offset
        store_apart(key_cache, key_place, padded_block, load(qkv, key + i))
        store(value_cache, page + offset * padded + i, load(qkv, value + i))


@inlined
def _rotate(qkv, place, half, cosines, sines, angle):
    """Turns the pairs of one head by the angles that begin at `angle`."""
    if half % LANES != 0:
        _rotate_singly(qkv, place, half, cosines, sines, angle)
        return
    for i in range(0, half, LANES):
        cosine, sine = load(cosines, angle + i), load(sines, angle + i)
        first, second = load(qkv, place + i), load(qkv, place + half + i)
        store(qkv, place + i, fma(first, cosine, broadcast(0.0) - second * sine))
        store(qkv, place + half + i, fma(second, cosine, first * sine))


@inlined
def _rotate_singly(qkv, place, half, cosines, sines, angle):
    for i in range(half):
        cosine, sine = cosines[angle + i], sines[angle + i]
        first, second = qkv[place + i], qkv[place + half + i]
        qkv[place + i] = first * cosine - second * sine
        qkv[place + half + i] = second * cosine + first * sine
