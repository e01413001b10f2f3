"""Every variant against diffusers: pictures off the table's centre, and skipped blocks."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

from flashjax.convert.configs import mmdit_config_from_diffusers
from flashjax.convert.transformer import transformer_from
from flashjax.flow.guidance import SkipLayers, skip_guided
from flashjax.flow.schedule import sampler_sigmas
from flashjax.flow.solvers import euler
from flashjax.models.mmdit import MMDiT, velocity_of
from flashjax.types import Cond

TINY = {
    "num_layers": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "caption_projection_dim": 16,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
    "pos_embed_max_size": 9,
    "sample_size": 16,
}
VARIANTS = {
    "sd3_medium": {"dual_attention_layers": (), "qk_norm": None},
    "sd35_medium": {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"},
    "sd35_large": {"dual_attention_layers": (), "qk_norm": "rms_norm"},
}
SIGMA = np.array([0.03, 0.9], np.float32)


@pytest.fixture(params=VARIANTS)
def model(request, randomise):
    torch.manual_seed(0)
    return randomise(SD3Transformer2DModel(**TINY, **VARIANTS[request.param]))


def ours_of(model, tensors_of):
    """Our config and parameters of diffusers' model."""
    config = mmdit_config_from_diffusers(json.loads(model.to_json_string()), "memory")
    return config, transformer_from(tensors_of(model), config, "diffusers")


def random_input(height, width):
    random = np.random.default_rng(1)
    shapes = (2, height, width, 16), (2, 5, 24), (2, 20)
    x, text, pooled = (random.normal(size=shape).astype(np.float32) for shape in shapes)
    return x, Cond(text, pooled)


def diffusers_velocity(model, x, cond, skip):
    with torch.no_grad():
        velocity = model(
            hidden_states=torch.from_numpy(x).permute(0, 3, 1, 2),
            timestep=torch.from_numpy(1000 * SIGMA),
            encoder_hidden_states=torch.from_numpy(cond.text),
            pooled_projections=torch.from_numpy(cond.pooled),
            skip_layers=skip,
        ).sample
    return velocity.permute(0, 2, 3, 1).numpy()


def test_velocity_off_centre_and_with_skipped_blocks_is_that_of_diffusers(model, tensors_of):
    """On 2 x 6 patches neither side has a middle in the table of 9."""
    config, params = ours_of(model, tensors_of)
    x, cond = random_input(4, 12)
    velocity = jax.jit(MMDiT(config).apply)
    seen = []
    for skip in ([], [0], [1, 2], [0, 1, 2]):
        flags = jnp.isin(jnp.arange(4), jnp.array(skip, int))
        ours, _ = velocity({"params": params}, x, SIGMA, cond, flags)
        theirs = diffusers_velocity(model, x, cond, skip)
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
        assert all(np.abs(theirs - other).max() > 1e-2 for other in seen)
        seen.append(theirs)


def diffusers_sample(model, x, cond, uncond, **kwargs):
    """Twelve steps of `StableDiffusion3Pipeline` from the noise `x` on given embeddings."""
    sampler = StableDiffusion3Pipeline(
        model, FlowMatchEulerDiscreteScheduler(shift=3.0), None, None, None, None, None, None, None
    )
    sampler.set_progress_bar_config(disable=True)
    latents = sampler(
        height=8 * x.shape[1],
        width=8 * x.shape[2],
        num_inference_steps=12,
        guidance_scale=4.0,
        prompt_embeds=torch.from_numpy(cond.text),
        pooled_prompt_embeds=torch.from_numpy(cond.pooled),
        negative_prompt_embeds=torch.from_numpy(uncond.text),
        negative_pooled_prompt_embeds=torch.from_numpy(uncond.pooled),
        latents=torch.from_numpy(x).permute(0, 3, 1, 2),
        output_type="latent",
        **kwargs,
    ).images
    return latents.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("model", ["sd35_medium"], indirect=True)
def test_skip_guided_sampling_is_that_of_diffusers(model, tensors_of):
    """Blocks are skipped in the second and third of twelve steps."""
    config, params = ours_of(model, tensors_of)
    x, cond = random_input(8, 8)
    uncond = Cond(-0.5 * cond.text, 0.3 * cond.pooled)
    skip, grid = SkipLayers(scale=2.8, blocks=(1, 2)), sampler_sigmas(12, 3.0)
    velocity, skipping = (velocity_of(MMDiT(config), skip=blocks) for blocks in ((), skip.blocks))
    teach = skip_guided(velocity, skipping, 4.0, skip=skip, sigmas=grid)

    @jax.jit
    def sample(params, x):
        return euler(lambda x, sigma: teach(params, x, sigma, cond, uncond), x, grid)

    theirs = diffusers_sample(model, x, cond, uncond, skip_guidance_layers=list(skip.blocks))
    size = np.abs(theirs).max()
    np.testing.assert_allclose(sample(params, x), theirs, atol=1e-5 * size, rtol=0)
    unskipped = diffusers_sample(model, x, cond, uncond)
    assert np.abs(theirs - unskipped).max() > 1e-3 * size
