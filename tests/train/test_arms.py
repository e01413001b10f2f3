"""Every arm of distribution matching against its formula, by the numbers that it draws."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flashjax.flow.guidance import guided
from flashjax.flow.schedule import SigmaDensity
from flashjax.train.arms import (
    draw_guidance,
    draw_interval,
    draw_levels,
    gradient_of,
    matching_point,
)
from flashjax.train.match import make_student_loss
from flashjax.train.rollout import StudentStep
from flashjax.types import InputError

GRID = (1.0, 0.9, 0.75, 0.5, 0.0)
NUMBER = 400


def wide(sigma):
    return sigma[:, None, None, None]


@pytest.fixture(scope="module")
def line():
    """A student's state and velocity at each of many samples."""
    return jax.random.normal(jax.random.key(1), (2, NUMBER, 2, 2, 3))


def drawn(world, line, index, grid=GRID, **arm):
    """Both ends of the line through the state at step `index`, and the point with its level."""
    x, velocity = line
    here = grid[index]
    x0, noise = x - here * velocity, x + (1 - here) * velocity
    at = StudentStep(jnp.array(grid), jnp.int32(index), jnp.int32(0))
    config = world.config(**arm)
    find = jax.jit(lambda *ends: matching_point(*ends, at, jax.random.key(0), config))
    return x0, noise, *find(x0, noise)


def noise_of(point, x0, sigma):
    return (point - wide(1 - sigma) * x0) / wide(sigma)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_next_shares_the_next_level_and_nothing_else(world, line, index):
    x0, noise, point, sigma = drawn(world, line, index, level="next")
    np.testing.assert_array_equal(sigma, np.float32(GRID[index + 1]))
    np.testing.assert_allclose(point, (1 - wide(sigma)) * x0 + wide(sigma) * noise, atol=1e-5)


@pytest.mark.parametrize("index", [0, 2])
def test_re_noising_at_the_grid_levels_draws_each_alike_with_fresh_noise(world, line, index):
    """The first level, where nothing is left of the sample, counts as the highest of a re-noise."""
    x0, noise, point, sigma = drawn(world, line, index, level="grid", eta=1.0)
    levels, counts = np.unique(np.asarray(sigma), return_counts=True)
    np.testing.assert_array_equal(levels, np.float32([0.5, 0.75, 0.9, 0.98]))
    assert counts.min() > 0.18 * NUMBER
    found = noise_of(point, x0, sigma)
    assert abs(np.corrcoef(found.ravel(), noise.ravel())[0, 1]) < 0.05
    assert 0.95 < np.std(found) < 1.05


@pytest.mark.parametrize("index", [0, 2])
def test_a_random_level_of_the_line_lies_on_it_below_the_steps_own(world, line, index):
    x, velocity = line
    _, _, point, sigma = drawn(world, line, index, level="line")
    top = min(GRID[index], 0.98)
    assert 0.02 <= sigma.min() < 0.05 and top - 0.03 < sigma.max() <= top
    assert np.mean(sigma) == pytest.approx((0.02 + top) / 2, abs=0.03)
    np.testing.assert_allclose(point, x + wide(sigma - GRID[index]) * velocity, atol=1e-5)


def test_the_last_step_may_share_its_own_level(world, line):
    x, _ = line
    _, _, point, sigma = drawn(world, line, 3, last="share")
    np.testing.assert_array_equal(sigma, 0.5)
    np.testing.assert_allclose(point, x, atol=1e-5)


@pytest.mark.parametrize("last", ["renoise", "share"])
def test_a_student_of_one_step_has_its_point(world, line, last):
    """Re-noised, or at its own level, kept below pure noise."""
    x0, noise, point, sigma = drawn(world, line, 0, grid=(1.0, 0.0), last=last)
    if last == "share":
        np.testing.assert_array_equal(sigma, np.float32(0.98))
        np.testing.assert_allclose(point, 0.02 * x0 + 0.98 * noise, atol=1e-5)
    else:
        assert sigma.min() < 0.1 and 0.9 < sigma.max() <= 0.98
        assert abs(np.corrcoef(noise_of(point, x0, sigma).ravel(), noise.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("index", [0, 3])
def test_levels_that_are_shifted_have_the_teachers_spacing(world, line, index):
    """Uniform in the timesteps of a teacher of shift 3, as its own sampler numbers them."""
    arm = {"level": "uniform", "eta": 1.0}
    _, _, _, plain = drawn(world, line, index, **arm)
    _, _, _, sigma = drawn(world, line, index, **arm, renoise_shift=3.0)
    np.testing.assert_allclose(sigma, np.minimum(3 * plain / (1 + 2 * plain), 0.98), rtol=1e-5)
    assert 0.05 < sigma.min() < 0.2 and np.median(sigma) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("eta", [0.25, 0.9])
def test_the_dial_mixes_both_noises_on_a_quarter_circle(world, line, eta):
    x0, noise, point, sigma = drawn(world, line, 1, eta=eta)
    _, _, fresh_point, _ = drawn(world, line, 1, eta=1.0)
    fresh = noise_of(fresh_point, x0, sigma)
    want = np.cos(eta * np.pi / 2) * noise + np.sin(eta * np.pi / 2) * fresh
    np.testing.assert_allclose(noise_of(point, x0, sigma), want, atol=1e-4)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_an_interval_is_reached_by_a_move_and_then_by_noise(world, line, index):
    """The sample goes to the next level on its line; only what lies above that is fresh noise."""
    x, velocity = line
    arm = {"level": "interval", "adversarial_weight": 0.0}
    _, _, point, sigma = drawn(world, line, index, **arm)
    low, top = GRID[index + 1], min(GRID[index], 0.98)
    assert low < sigma.min() and sigma.max() <= top + 1e-6
    assert np.mean(sigma) == pytest.approx((low + top) / 2, abs=0.1 * (top - low))
    kept = wide((1 - sigma) / (1 - low))
    added = np.sqrt(wide(sigma) ** 2 - (kept * low) ** 2)
    fresh = (point - kept * (x + (low - GRID[index]) * velocity)) / added
    assert abs(np.corrcoef(fresh.ravel(), (x + velocity).ravel())[0, 1]) < 0.05
    assert 0.95 < np.std(fresh) < 1.05


def test_the_last_interval_ends_at_the_data_and_is_a_re_noise(world, line):
    arm = {"level": "interval", "adversarial_weight": 0.0}
    _, _, point, sigma = drawn(world, line, 3, **arm)
    _, _, want, want_sigma = drawn(world, line, 3)
    np.testing.assert_allclose(sigma, want_sigma)
    np.testing.assert_allclose(point, want, atol=1e-4)


@pytest.mark.parametrize("low", [0.0, 0.5, 0.9])
def test_levels_of_an_interval_weigh_as_the_noise_that_was_added(world, low):
    lows = jnp.full(2000, low)
    sigma, weight = draw_interval(jax.random.key(0), lows, world.config())
    assert low < sigma.min() and sigma.max() <= 0.98 + 1e-6
    added = sigma**2 - ((1 - sigma) / (1 - low) * low) ** 2
    np.testing.assert_allclose(weight, np.minimum(1 / added, 10), rtol=2e-3)


WRONG = [
    {"eta": 1.5},
    {"renoise": (0.0, 0.98)},
    {"level": "interval"},  # with heads
    {"level": "interval", "adversarial_weight": 0.0, "eta": 0.5},
    {"interval_target": "sample"},  # without an interval
    {"told": True},  # of nothing
]


@pytest.mark.parametrize("arm", WRONG)
def test_arms_that_are_none_are_refused(world, arm):
    with pytest.raises(InputError):
        world.config(**arm)


# --- levels and guidance --------------------------------------------------------------------------


def test_critic_and_student_draw_their_levels_from_one_density(world):
    """Few low levels for both: a uniform one would have ten times as many below .1."""
    config = world.config(density=SigmaDensity(0.0, 1.0, 3.0), shared_share=0.0)
    sigma = draw_levels(jax.random.key(0), 20_000, config, jnp.array(GRID))
    # P(shifted logit-normal < .1) = Phi(logit(.1 / (3 - 2 * .1))) = Phi(-3.296)
    assert np.mean(sigma < 0.1) == pytest.approx(0.0005, abs=0.0006)
    flat = world.config(density=SigmaDensity(kind="uniform"), shared_share=0.0)
    sigma = draw_levels(jax.random.key(0), 20_000, flat, jnp.array(GRID))
    assert np.mean(sigma < 0.1) == pytest.approx(0.1, abs=0.01)


def test_a_share_of_the_levels_is_the_grids_and_a_single_step_has_none(world):
    config = world.config(shared_share=0.25)
    grid = np.float32([0.9, 0.75, 0.5])
    sigma = np.asarray(draw_levels(jax.random.key(0), 4000, config, jnp.array(GRID)))
    assert np.mean(np.isin(sigma, grid)) == pytest.approx(0.25, abs=0.03)
    alone = np.asarray(draw_levels(jax.random.key(0), 4000, config, jnp.array([1.0, 0.0])))
    assert np.mean(np.isin(alone, [*grid, 1.0])) == 0.0


def test_guidance_is_fixed_or_drawn_around_its_scale_for_every_sample(world):
    x = world.batch.latents
    assert draw_guidance(jax.random.key(0), x, world.config()) == 3.0
    many = jnp.zeros((4000, 1, 1, 1))
    drawn = draw_guidance(jax.random.key(0), many, world.config(guidance_spread=2.0))
    assert 1.0 <= drawn.min() < 1.01 and 4.99 < drawn.max() <= 5.0
    scales = jnp.array([1.0, 2.0, 5.0])
    velocity = lambda params, x, sigma, cond: params * x + cond.reshape(-1, 1, 1, 1)
    args = jnp.float32(0.5), x, jnp.full(3, 0.5), jnp.ones(3), jnp.zeros(3)
    together = guided(velocity, scales[:, None, None, None])(*args)
    for number, scale in enumerate(scales):
        alone = guided(velocity, float(scale))(*args)
        np.testing.assert_allclose(together[number], alone[number], rtol=1e-6)


def test_a_gradient_of_ones_own_takes_the_place_of_dmd_s(world, tmp_path, monkeypatch):
    """Named by its path; that of the package named so is the default."""
    code = "def half(x0, teacher_x0, fake_x0, *, floor):\n    return 0.5 * (fake_x0 - teacher_x0)\n"
    (tmp_path / "someones_losses.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    x0, teacher, fake = np.random.default_rng(0).normal(size=(3, 2, 4))
    own = gradient_of(world.config(gradient="someones_losses:half"))
    np.testing.assert_array_equal(own(x0, teacher, fake, floor=0.1), 0.5 * (fake - teacher))
    named = "flashjax.losses.distribution_matching:matching_gradient"
    assert gradient_of(world.config(gradient=named)) is gradient_of(world.config())
    with pytest.raises(InputError, match="gradient: someones_losses:third: module"):
        world.config(gradient="someones_losses:third")


def test_the_student_s_loss_moves_along_ones_own_gradient(world, monkeypatch, tmp_path):
    (tmp_path / "someones_zeros.py").write_text(
        "def zero(x0, teacher_x0, fake_x0, *, floor):\n    return 0.0 * x0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    alone = {"adversarial_weight": 0.0, "trajectory_weight": 0.0}
    config = world.config(gradient="someones_zeros:zero", **alone)
    loss = make_student_loss(world.nets, config, jnp.array(GRID))
    state = world.state(optax.sgd(1.0))
    found, _ = jax.jit(loss)(world.init(1), state, world.frozen, world.batch, jax.random.key(0))
    assert float(found) == 0.0
