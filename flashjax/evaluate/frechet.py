"""The Fréchet distance between two sets of features, each taken for a Gaussian."""

import numpy as np


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of features "n d" and "m d", in float64.

    tr (A B)^(1/2) is taken from the symmetric A^(1/2) B A^(1/2), whose eigenvalues are real and
    not negative; so the distance is stable also where n < d and the covariances are singular.
    Source: Heusel et al. 2017 (arXiv 1706.08500), equation 6. Raises ValueError on bad shapes.
    """
    a, b = np.asarray(features_a, np.float64), np.asarray(features_b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"frechet: features {a.shape} and {b.shape}; need (n >= 2, d) of equal d")
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    root_a = _root(cov_a)
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root_a @ cov_b @ root_a), 0, None)).sum()
    apart = np.sum((a.mean(0) - b.mean(0)) ** 2)
    return float(max(apart + np.trace(cov_a) + np.trace(cov_b) - 2 * cross, 0.0))


def _root(cov: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(cov)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
