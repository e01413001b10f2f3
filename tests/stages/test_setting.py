"""A model is drawn and shipped at the size that its run has learnt."""

import pytest

from flashjax import config as configs
from flashjax.convert.folder import read_pipeline
from flashjax.stages.setting import at_its_size


@pytest.mark.parametrize(("size", "latents"), [(0, 8), (64, 8), (128, 16)])
def test_a_run_of_another_size_than_the_models_draws_that_size(tiny_teacher, size, latents):
    config = configs.load("configs/nano.py", [f"data.size={size}"])
    assert at_its_size(config, read_pipeline(tiny_teacher)).sample_size == latents
