"""Convolutions in their cheap forms against torch: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flashjax.models.convolutions import Conv3x3, UpsampleConv, convolve, convolve_narrow

CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def torch_convolution(x, kernel, bias=None):
    """What torch makes of "b h w c" and "3 3 c d"."""
    y = F.conv2d(x.permute(CHANNELS_FIRST), kernel.permute(3, 2, 0, 1), bias, padding=1)
    return y.permute(CHANNELS_LAST)


def drawn(key, *shapes):
    keys = jax.random.split(key, len(shapes))
    return [np.array(jax.random.normal(*pair)) for pair in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize("width", [8, 12, 7, 1])
@pytest.mark.parametrize(("inputs", "outputs"), [(8, 8), (8, 3), (3, 16), (5, 31)])
def test_narrow_convolutions_are_torchs(key, width, inputs, outputs):
    x, kernel = drawn(key, (2, 5, width, inputs), (3, 3, inputs, outputs))
    want = torch_convolution(torch.tensor(x), torch.tensor(kernel))
    np.testing.assert_allclose(convolve_narrow(x, kernel), want, atol=1e-4)


def test_narrow_convolutions_have_torchs_gradients(key):
    x, kernel, weight = drawn(key, (2, 5, 8, 4), (3, 3, 4, 6), (2, 5, 8, 6))
    given = torch.tensor(x, requires_grad=True), torch.tensor(kernel, requires_grad=True)
    torch.sum(torch_convolution(*given) ** 2 * torch.tensor(weight)).backward()
    got = jax.grad(lambda *a: jnp.sum(convolve_narrow(*a) ** 2 * weight), argnums=(0, 1))(x, kernel)
    for gradient, want in zip(got, given, strict=True):
        np.testing.assert_allclose(gradient, want.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("inputs", "outputs", "narrow"), [(31, 8, True), (32, 8, False)])
def test_only_few_channels_take_the_narrow_form(key, inputs, outputs, narrow):
    x, kernel, bias = drawn(key, (1, 4, 8, inputs), (3, 3, inputs, outputs), (outputs,))
    apply = jax.jit(Conv3x3(outputs).apply)
    variables = {"params": {"kernel": kernel, "bias": bias}}
    want = torch_convolution(*(torch.tensor(array) for array in (x, kernel, bias)))
    np.testing.assert_allclose(apply(variables, x), want, atol=1e-4)
    assert ("custom_vjp" in str(jax.make_jaxpr(apply)(variables, x))) == narrow


def test_upsampling_by_phases_is_upsampling_and_then_convolving(key):
    x, kernel, bias = drawn(key, (2, 3, 5, 4), (3, 3, 4, 6), (6,))
    large = F.interpolate(torch.tensor(x).permute(CHANNELS_FIRST), scale_factor=2.0, mode="nearest")
    want = torch_convolution(large.permute(CHANNELS_LAST), torch.tensor(kernel), torch.tensor(bias))
    got = UpsampleConv(6).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_the_plain_form_is_torchs(key):
    x, kernel = drawn(key, (2, 5, 7, 4), (3, 3, 4, 6))
    want = torch_convolution(torch.tensor(x), torch.tensor(kernel))
    np.testing.assert_allclose(convolve(x, kernel), want, atol=1e-4)
