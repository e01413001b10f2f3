"""Tiled decoding against diffusers' `enable_tiling`."""

import numpy as np
import torch
from diffusers import AutoencoderKL

from flashjax.convert.configs import vae_config_to_diffusers
from flashjax.convert.vae import vae_from
from flashjax.models.tiling import tiled_decode
from flashjax.models.vae import VAEConfig

CONFIG = VAEConfig(channels=(8, 8), layers=1, groups=4, latent_channels=4)
TILE = 8


def test_tiles_and_their_blends_are_those_of_diffusers(randomise, tensors_of):
    """13 rows end in two tiles that are cut short, the second one latent pixel high."""
    model = randomise(AutoencoderKL.from_config(vae_config_to_diffusers(CONFIG)))
    model.enable_tiling()
    model.tile_latent_min_size, model.tile_sample_min_size = TILE, TILE * CONFIG.factor
    latents = np.random.default_rng(0).normal(size=(2, 13, 14, 4)).astype(np.float32)
    raw = torch.from_numpy(latents).permute(0, 3, 1, 2)
    raw = raw / CONFIG.scaling_factor + CONFIG.shift_factor
    with torch.no_grad():
        theirs = model.decode(raw).sample.permute(0, 2, 3, 1).clamp(-1, 1).numpy()
        model.disable_tiling()
        plain = model.decode(raw).sample.permute(0, 2, 3, 1).clamp(-1, 1).numpy()
    params = vae_from(tensors_of(model), CONFIG, "diffusers")
    ours = tiled_decode(CONFIG, params, latents, tile=TILE)
    assert ours.shape == (2, 26, 28, 3) and 0.05 < np.abs(theirs).mean() < 0.9
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)
    assert np.abs(theirs - plain).max() > 1e-2
