"""Noise levels against the published tables, diffusers' scheduler, and their own definitions."""

import jax
import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from scipy import stats

from flashjax.flow.schedule import (
    Schedule,
    SigmaDensity,
    draw_sigma,
    sampler_sigmas,
    shift_sigma,
    steps_in_range,
    student_sigmas,
)
from flashjax.types import InputError

# First and last levels of the reference samplers with shift 3.
TABLES = {
    4: ([1.0, 0.857692, 0.602151], [0.008929, 0.0]),
    28: ([1.0, 0.987381, 0.974108, 0.960129], [0.199827, 0.110906, 0.008929, 0.0]),
    40: ([1.0], [0.146509, 0.081046, 0.008929, 0.0]),
}


@pytest.mark.parametrize("steps", TABLES)
def test_the_samplers_grid_is_the_published_one(steps):
    first, last = TABLES[steps]
    sigmas = sampler_sigmas(steps, 3.0)
    assert sigmas.shape == (steps + 1,) and np.all(np.diff(sigmas) < 0)
    np.testing.assert_allclose(sigmas[: len(first)], first, atol=1e-6)
    np.testing.assert_allclose(sigmas[-len(last) :], last, atol=1e-6)


@pytest.mark.parametrize("steps", [2, 4, 28, 40, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_samplers_grid_is_that_of_diffusers(steps, shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    np.testing.assert_allclose(sampler_sigmas(steps, shift), scheduler.sigmas, atol=1e-6)


SETTINGS = [
    dict(shift=2.5),
    dict(use_karras_sigmas=True, shift=3.0),
    dict(use_exponential_sigmas=True, shift=3.0),
    dict(use_beta_sigmas=True, shift=3.0),
    dict(shift_terminal=0.1, shift=3.0),
    dict(shift_terminal=0.02, use_karras_sigmas=True),
    dict(use_dynamic_shifting=True),
    dict(use_dynamic_shifting=True, shift=7.0, base_shift=0.3, max_shift=1.9),
    dict(use_dynamic_shifting=True, base_image_seq_len=64, max_image_seq_len=1024),
    dict(use_dynamic_shifting=True, time_shift_type="linear"),
    dict(use_dynamic_shifting=True, shift_terminal=0.05, use_beta_sigmas=True),
]


@pytest.mark.parametrize("steps", [2, 5, 28])
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: " ".join(map(str, setting)))
def test_every_setting_of_diffusers_scheduler_gives_its_grid(setting, steps):
    scheduler = FlowMatchEulerDiscreteScheduler(**setting)
    of = scheduler.config
    sizes = (of.base_image_seq_len, of.max_image_seq_len, of.base_shift, of.max_shift)
    for tokens in (16, 1000, 4096, 9216):
        mu = calculate_shift(tokens, *sizes) if of.use_dynamic_shifting else None
        scheduler.set_timesteps(steps, mu=mu)
        sigmas = sampler_sigmas(steps, Schedule(**setting), tokens)
        np.testing.assert_allclose(sigmas, scheduler.sigmas, atol=1e-6)


def test_one_step_has_the_spacings_first_level_and_no_terminal_shift():
    for spacing in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, **{spacing: True})
        scheduler.set_timesteps(1)
        sigmas = sampler_sigmas(1, Schedule(3.0, **{spacing: True}))
        np.testing.assert_allclose(sigmas, scheduler.sigmas, atol=1e-6)
    with pytest.raises(InputError, match="shift_terminal: give two steps or more"):
        sampler_sigmas(1, Schedule(3.0, shift_terminal=0.1))


def test_a_dynamic_shift_that_is_none_is_refused():
    linear = Schedule(use_dynamic_shifting=True, time_shift_type="linear", base_shift=-1.0)
    with pytest.raises(InputError, match="linear time_shift_type gives 256 tokens no shift: -1"):
        linear.shift_of(256)
    steep = Schedule(use_dynamic_shifting=True, max_shift=1e5)
    with pytest.raises(InputError, match="exponential time_shift_type gives 4096 tokens no shift"):
        steep.shift_of(4096)


def test_the_students_grid_is_shifted_once():
    np.testing.assert_allclose(student_sigmas(4, 3.0), [1, 0.9, 0.75, 0.5, 0], atol=1e-7)
    np.testing.assert_allclose(student_sigmas(2, 3.0), [1, 0.75, 0], atol=1e-7)
    np.testing.assert_allclose(student_sigmas(1, 3.0), [1, 0], atol=1e-7)
    np.testing.assert_allclose(student_sigmas(4, 1.0), [1, 0.75, 0.5, 0.25, 0], atol=1e-7)


def test_a_shift_keeps_the_ends_and_can_be_undone():
    sigma = np.linspace(0.0, 1.0, 11)
    shifted = shift_sigma(sigma, 3.0)
    assert shifted[0] == 0 and shifted[-1] == 1 and np.all(shifted[1:-1] > sigma[1:-1])
    np.testing.assert_allclose(shift_sigma(shifted, 1 / 3.0), sigma, atol=1e-12)


@pytest.mark.parametrize(
    ("steps", "low_half", "high_half"), [(4, (2, 3), (0, 1)), (2, (1,), (0,)), (3, (2,), (0, 1))]
)
def test_two_ranges_split_the_steps(steps, low_half, high_half):
    assert steps_in_range(steps, 0, 500) == low_half
    assert steps_in_range(steps, 500, 1000) == high_half


def test_ranges_of_shifted_timesteps_split_the_levels_that_the_network_is_told():
    """The student's sigmas are 1, .9, .75, .5: of 500 only the last is no higher."""
    assert steps_in_range(4, 0, 500, shift=3.0) == (3,)
    assert steps_in_range(4, 500, 1000, shift=3.0) == (0, 1, 2)
    assert steps_in_range(4, 750, 900, shift=3.0) == (1,)
    assert steps_in_range(2, 0, 500, shift=3.0) == ()


@pytest.mark.parametrize(
    "density", [SigmaDensity(), SigmaDensity(shift=3.0), SigmaDensity(0.5, 0.7, 2.0)]
)
def test_levels_follow_the_shifted_logit_normal(key, density):
    """A shift adds its logarithm to the logit, so the logit stays normal."""
    sigma = np.asarray(draw_sigma(key, 4000, density), np.float64)
    assert sigma.min() > 0 and sigma.max() < 1
    normal = (density.mean + np.log(density.shift), density.std)
    assert stats.kstest(np.log(sigma / (1 - sigma)), "norm", normal).pvalue > 0.01
    same = draw_sigma(jax.random.clone(key), 4000, density)
    np.testing.assert_array_equal(sigma.astype(np.float32), same)
