"""Tiled decoding: nothing changes where one tile is enough. Blends: tests/convert."""

import jax
import numpy as np
import pytest

from flashjax.models.tiling import tiled_decode
from flashjax.models.vae import VAE, VAEConfig, decode
from flashjax.types import InputError

CONFIG = VAEConfig(channels=(4, 4), layers=1, groups=2, latent_channels=4)
LATENTS = np.random.default_rng(0).normal(size=(2, 8, 6, 4)).astype(np.float32)


def test_one_tile_is_the_plain_decoder(random_params):
    image = np.zeros((1, 8, 8, 3))
    params = random_params(jax.eval_shape(VAE(CONFIG).init, jax.random.key(0), image)["params"])
    want = jax.jit(lambda p, z: decode(CONFIG, p, z))(params, LATENTS)
    got = tiled_decode(CONFIG, params, LATENTS, tile=8)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert want.shape == (2, 16, 12, 3) and np.ptp(want) > 0.1


@pytest.mark.parametrize("tile", [0, 6, 10])
def test_a_tile_without_a_quarter_is_refused(tile):
    with pytest.raises(InputError, match=f"tile={tile} "):
        tiled_decode(CONFIG, {}, LATENTS, tile=tile)
