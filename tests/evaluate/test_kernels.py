"""MMD: against sums over all pairs, closed forms of Gaussians, and sklearn's kernels."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel

from flashjax.evaluate import kernels
from flashjax.evaluate.kernels import cubic, gaussian, mmd


def features(count, *, seed, shift=0.0, d=6):
    return np.random.default_rng(seed).normal(shift, 1, size=(count, d))


def brute(x, y, kernel):
    """The U-statistic, pair by pair."""

    def mean(a, b, *, other):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (other and i == j)]
        return np.mean([kernel(a[i][None], b[j][None])[0, 0] for i, j in pairs])

    return mean(x, x, other=True) + mean(y, y, other=True) - 2 * mean(x, y, other=False)


@pytest.mark.parametrize("kernel", [gaussian(1.5), cubic])
def test_it_is_the_mean_over_all_pairs_of_different_samples(kernel):
    x, y = features(7, seed=0), features(9, seed=1, shift=0.5)
    assert mmd(x, y, kernel).value == pytest.approx(brute(x, y, kernel), rel=1e-9)


def test_kernels_are_sklearns():
    x, y = features(5, seed=0), features(4, seed=1)
    np.testing.assert_allclose(gaussian(1.5)(x, y), rbf_kernel(x, y, gamma=1 / (2 * 1.5**2)))
    np.testing.assert_allclose(cubic(x, y), polynomial_kernel(x, y, degree=3, coef0=1))


def test_gaussians_give_the_closed_form():
    """E k(x, y) of N(a, 1) and N(b, 1) in d dims is (s/(s+2))^(d/2) exp(-|a-b|^2/(2(s+2)))."""
    d, shift, square = 3, 0.8, 2.0**2
    same = (square / (square + 2)) ** (d / 2)
    expected = 2 * same - 2 * same * np.exp(-d * shift**2 / (2 * (square + 2)))
    x, y = features(3000, seed=0, d=d), features(3000, seed=1, shift=shift, d=d)
    assert mmd(x, y, gaussian(2.0)).value == pytest.approx(expected, rel=0.04)


def test_two_sets_of_one_distribution_are_at_zero_in_the_mean():
    values = [
        mmd(features(20, seed=2 * i), features(20, seed=2 * i + 1), gaussian(2.0)).value
        for i in range(200)
    ]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
def test_pairs_of_the_same_noise_are_at_zero_in_the_mean_too(alike):
    """Rows of a student and its teacher; compared with each other they would lie far below."""
    values = []
    for i in range(200):
        x, other = features(20, seed=2 * i), features(20, seed=2 * i + 1)
        y = alike * x + np.sqrt(1 - alike**2) * other
        values.append(mmd(x, y, gaussian(2.0), paired=True).value)
    assert abs(np.mean(values)) <= 3 * np.std(values) / np.sqrt(len(values)) + 1e-12
    with pytest.raises(ValueError, match="are no pairs"):
        mmd(x, y[:-1], gaussian(2.0), paired=True)


@pytest.mark.parametrize("kernel", [gaussian(3.0), cubic])
def test_influences_foretell_how_new_sets_scatter(kernel):
    y = features(150, seed=999)
    found = [mmd(features(150, seed=i, shift=0.3), y, kernel) for i in range(80)]
    told = np.mean([one.influence.std() / np.sqrt(150) for one in found])
    assert told == pytest.approx(np.std([one.value for one in found]), rel=0.3)


def test_blocks_change_nothing(monkeypatch):
    x, y = features(23, seed=0), features(31, seed=1)
    whole = mmd(x, y, cubic)
    monkeypatch.setattr(kernels, "ELEMENTS", 70)
    pieces = mmd(x, y, cubic)
    assert pieces.value == pytest.approx(whole.value, rel=1e-12)
    np.testing.assert_allclose(pieces.influence, whole.influence, rtol=1e-9)


@pytest.mark.parametrize("shapes", [((5, 3), (5, 4)), ((5,), (5,)), ((1, 3), (5, 3))])
def test_bad_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="mmd"):
        mmd(*(np.ones(shape) for shape in shapes), cubic)
