"""A model is drawn and shipped at the size that its run has learnt."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from flashjax import config as configs
from flashjax.convert.folder import read_pipeline
from flashjax.flow.schedule import student_sigmas
from flashjax.parallel.mesh import make_mesh
from flashjax.stages.setting import at_its_size, make_setting
from flashjax.types import Batch, Cond


@pytest.mark.parametrize(("size", "latents"), [(0, 8), (64, 8), (128, 16)])
def test_a_run_of_another_size_than_the_models_draws_that_size(tiny_teacher, size, latents):
    config = configs.load("configs/nano.py", [f"data.size={size}"])
    assert at_its_size(config, read_pipeline(tiny_teacher)).sample_size == latents


@pytest.mark.parametrize("size", [0, 128])
def test_a_student_learns_the_levels_that_pictures_of_its_size_are_drawn_with(tiny_teacher, size):
    """A dynamic schedule shifts larger pictures further."""
    pipeline = read_pipeline(tiny_teacher)
    schedule = dataclasses.replace(pipeline.schedule, use_dynamic_shifting=True)
    pipeline = dataclasses.replace(pipeline, schedule=schedule, text={})
    config = configs.load("configs/nano.py", [f"data.size={size}", "match.heads.taps=0,1"])
    empty = Cond(text=jnp.zeros((1, 2, 3)), pooled=jnp.zeros((1, 3)))
    batch = Batch(jnp.zeros((1, 8, 8, 16)), empty)
    setting = make_setting(config, make_mesh({"data": 1}), pipeline, (batch,), empty)
    drawn = at_its_size(config, pipeline)
    np.testing.assert_allclose(setting.sigmas, student_sigmas(4, drawn.shift), rtol=1e-6)
    assert setting.pipeline.shift == drawn.shift
    assert (drawn.shift == pipeline.shift) == (size == 0)
