"""What took the time of a call is found in its trace."""

from collections import Counter

import jax
import jax.numpy as jnp

from flashjax.tools.bench.operations import table, traced


def test_a_product_is_what_takes_the_time_of_a_product():
    product = jax.jit(lambda x: x @ x)
    x = jnp.ones((700, 700))
    product(x).block_until_ready()
    found = traced(lambda: product(x))
    (name, seconds), *_ = found.most_common(1)
    assert f"%{name}" in product.lower(x).compile().as_text()
    assert 0 < seconds < 60


def test_the_table_has_the_longest_first_and_adds_up():
    lines = table(Counter({"dot": 3.0, "add": 1.0})).splitlines()
    assert [line.split()[-1] for line in lines] == ["dot", "add", "others"]
    assert "75.0 %" in lines[0] and "0.0 %" in lines[2]
