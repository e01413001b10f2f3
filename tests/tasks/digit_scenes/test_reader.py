"""The reader's output has the shapes it promises, and it costs what it claims."""

import jax
import jax.numpy as jnp

from flashjax.tasks.digit_scenes.reader import Reader, _space_to_depth

IMAGES = jax.ShapeDtypeStruct((3, 64, 64, 3), jnp.float32)


def params_and_output():
    params = jax.eval_shape(Reader().init, jax.random.key(0), IMAGES)
    return params, jax.eval_shape(Reader().apply, params, IMAGES)


def test_every_output_has_its_shape():
    output = params_and_output()[1]
    assert output.objectness.shape == (3, 8, 8)
    assert output.value.shape == (3, 8, 8, 10)
    assert output.colour.shape == (3, 8, 8, 6)
    assert output.offset.shape == (3, 8, 8, 2)
    assert output.background.shape == (3, 4)
    assert output.features.shape == (3, 128)


def test_one_picture_costs_at_most_thirty_mflop():
    params = params_and_output()[0]
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    cost = jax.jit(Reader().apply).lower(params, image).compile().cost_analysis()
    assert 10e6 < cost["flops"] < 30e6


def test_space_to_depth_keeps_each_two_by_two_of_pixels_together():
    image = jnp.arange(4 * 4 * 3).reshape(1, 4, 4, 3)
    folded = _space_to_depth(image)
    assert folded.shape == (1, 2, 2, 12)
    assert (folded[0, 1, 0].reshape(2, 2, 3) == image[0, 2:4, 0:2]).all()
