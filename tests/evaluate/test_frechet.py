"""The Fréchet distance equals the closed form for Gaussians whose moments are known exactly."""

import numpy as np
import pytest
import scipy.linalg

from flashjax.evaluate.frechet import frechet, frechet_distance


def samples(mean: np.ndarray, cov: np.ndarray, *, seed: int, count: int = 64) -> np.ndarray:
    """Points whose sample mean and covariance are exactly those asked for."""
    noise = np.random.default_rng(seed).normal(size=(count, len(mean)))
    noise -= noise.mean(0)
    white = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise, rowvar=False))).T
    return mean + white @ np.linalg.cholesky(cov).T


def test_it_is_zero_between_a_set_and_itself():
    points = np.random.default_rng(0).normal(size=(50, 8))
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-9)


def test_commuting_covariances_give_the_closed_form():
    mean_a, mean_b = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 3.0])
    var_a, var_b = np.array([1.0, 4.0, 0.25]), np.array([9.0, 1.0, 0.04])
    expected = ((mean_a - mean_b) ** 2).sum() + ((np.sqrt(var_a) - np.sqrt(var_b)) ** 2).sum()
    a = samples(mean_a, np.diag(var_a), seed=1)
    b = samples(mean_b, np.diag(var_b), seed=2)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_general_covariances_agree_with_scipy_sqrtm():
    rng = np.random.default_rng(3)
    mixes = rng.normal(size=(2, 6, 6))
    cov_a, cov_b = (m @ m.T + 0.1 * np.eye(6) for m in mixes)
    a, b = samples(np.zeros(6), cov_a, seed=4), samples(np.ones(6), cov_b, seed=5)
    expected = 6 + np.trace(cov_a + cov_b - 2 * scipy.linalg.sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


def test_it_stays_finite_and_small_with_fewer_samples_than_features():
    points = np.random.default_rng(6).normal(size=(10, 64)).astype(np.float32)
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(points, points + 1) == pytest.approx(64, rel=1e-4)


@pytest.mark.parametrize("shapes", [((5, 3), (5, 4)), ((5,), (5,)), ((1, 3), (5, 3))])
def test_bad_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="frechet"):
        frechet_distance(*(np.ones(shape) for shape in shapes))


@pytest.mark.parametrize(("count", "d"), [(300, 6), (60, 100)])
def test_influences_foretell_how_new_sets_scatter(count, d):
    """With more samples than features, and with fewer, where the covariance is singular."""
    rng = np.random.default_rng(8)
    scale = np.exp(-4 * np.arange(d) / d)
    reference = rng.normal(size=(300, d)) * scale
    found = [frechet(0.3 + rng.normal(size=(count, d)) * 1.3 * scale, reference) for _ in range(60)]
    told = np.mean([one.influence.std() / np.sqrt(count) for one in found])
    assert told == pytest.approx(np.std([one.value for one in found]), rel=0.35)


def test_influences_are_the_derivative_by_repeating_a_sample():
    """A sample that weighs a little more moves the distance by its influence."""
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=(40, 3)), rng.normal(size=(50, 3)) * 1.5 + 0.2
    often = 400
    plain = np.concatenate([np.tile(a, (often, 1)), a[:1]])
    moved = frechet(plain, b).value - frechet(np.tile(a, (often, 1)), b).value
    weight = 1 / (len(a) * often)
    assert moved / weight == pytest.approx(frechet(a, b).influence[0], rel=0.02)
