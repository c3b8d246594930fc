"""The products of a decoder, from its config.json: how large they are, how many there are."""

from pathlib import Path

import msgspec

from tokenreel.tools.bench.problem import Problem


class NoShape(Problem):
    """A config.json that tells no decoder's shape: one line for the user."""


class Product(msgspec.Struct, frozen=True):
    """A weight of [num_outputs, num_inputs], by which every row is multiplied."""

    num_outputs: int
    num_inputs: int


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """Of a decoder with grouped attention and a gated feed-forward part: Llama, Mistral, Qwen."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    vocab_size: int

    @property
    def layer(self) -> list[Product]:
        """Attention's queries, keys and values as one, its output, gate and up as one, down."""
        head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        num_kv_heads = self.num_key_value_heads or self.num_attention_heads
        attention = self.num_attention_heads * head_dim
        return [
            Product(attention + 2 * num_kv_heads * head_dim, self.hidden_size),
            Product(self.hidden_size, attention),
            Product(2 * self.intermediate_size, self.hidden_size),
            Product(self.hidden_size, self.intermediate_size),
        ]

    @property
    def head(self) -> Product:
        return Product(self.vocab_size, self.hidden_size)


def read_shape(model: Path) -> ModelShape:
    """Raises NoShape."""
    path = model / "config.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=ModelShape)
    except OSError as error:
        raise NoShape(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise NoShape(f"{path} does not tell a decoder's shape: {error}") from None
