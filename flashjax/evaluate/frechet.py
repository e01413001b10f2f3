"""The Fréchet distance between two sets of features, each taken for a Gaussian."""

import numpy as np

from flashjax.evaluate.estimates import Estimate

NULL = 1e-13  # of the largest eigenvalue: directions with less variance have none


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """The value of `frechet`."""
    return frechet(features_a, features_b).value


def frechet(features_a: np.ndarray, features_b: np.ndarray) -> Estimate:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of features "n d" and "m d", in float64.

    tr (A B)^(1/2) is taken from the symmetric A^(1/2) B A^(1/2), whose eigenvalues are real and
    not negative; so the distance is stable also where n < d and the covariances are singular, and
    costs less then.
    Source: Heusel et al. 2017 (arXiv 1706.08500), equation 6. Raises ValueError on bad shapes.

    The influence of a row of `features_a`, z away from their mean, is the derivative of the value
    along z z' - A: 2 (mean_a - mean_b) . z + z' (1 - T) z, less its mean. The map
    T = A^(-1/2) (A^(1/2) B A^(1/2))^(1/2) A^(-1/2) carries one Gaussian to the other.
    """
    a, b = np.asarray(features_a, np.float64), np.asarray(features_b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"frechet: features {a.shape} and {b.shape}; need (n >= 2, d) of equal d")
    z, y = a - a.mean(0), b - b.mean(0)
    apart = a.mean(0) - b.mean(0)
    deviations, axes = _principal(z)
    # The eigenvalues of A^(1/2) B A^(1/2) are those of B along the axes of A, in its deviations.
    crossed, turned = _principal(y @ (axes * deviations))
    traces = np.sum(z * z) / (len(z) - 1) + np.sum(y * y) / (len(y) - 1)
    value = apart @ apart + traces - 2 * crossed.sum()

    whitened = z @ (axes / deviations)
    carried = ((whitened @ turned) ** 2 * crossed).sum(1)
    influence = 2 * z @ apart + (z * z).sum(1) - carried
    return Estimate(float(max(value, 0.0)), influence - influence.mean())


def _principal(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviations "r" of centred rows "n d" along their principal axes "d r"."""
    count, wide = len(z), len(z) < z.shape[1]
    values, vectors = np.linalg.eigh((z @ z.T if wide else z.T @ z) / (count - 1))
    some = values > NULL * values.max(initial=0)
    deviations, vectors = np.sqrt(values[some]), vectors[:, some]
    return deviations, z.T @ vectors / (deviations * np.sqrt(count - 1)) if wide else vectors
