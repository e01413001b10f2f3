"""Bytes held at once, against sums that a person can do."""

import jax
import jax.numpy as jnp

from flashjax.parallel.liveness import peak_bytes

SQUARE = jax.ShapeDtypeStruct((100, 100), jnp.float32)
BYTES = 40_000


def test_arrays_are_freed_after_their_last_use() -> None:
    def chain(x):
        for _ in range(5):
            x = x @ x
        return x

    assert peak_bytes(chain, SQUARE) == 2 * BYTES


def test_a_shortcut_lives_until_it_is_added() -> None:
    def block(x):
        first = x @ x
        return (first @ x) @ x + first

    assert peak_bytes(block, SQUARE) == 3 * BYTES


def test_elementwise_chains_take_nothing_of_their_own() -> None:
    def chain(x):
        return jnp.tanh(jax.nn.silu(x @ x) * 2 + 1) @ x

    assert peak_bytes(chain, SQUARE) == 2 * BYTES  # the product and the factor made of it


def test_what_nobody_reads_is_not_there() -> None:
    assert peak_bytes(lambda x: ((x @ x), jnp.concatenate([x] * 50))[0], SQUARE) == BYTES


def test_scores_of_attention_are_never_held_and_loops_count_once() -> None:
    heads = jax.ShapeDtypeStruct((1, 4096, 2, 8), jnp.float32)
    size = 4 * 4096 * 16
    assert peak_bytes(lambda q: jax.nn.dot_product_attention(q, q, q), heads) < 4 * size

    def repeated(q):
        return jax.lax.scan(lambda x, _: (jax.nn.dot_product_attention(x, x, x), None), q, None, 9)

    assert peak_bytes(lambda q: repeated(q)[0], heads) < 6 * size
