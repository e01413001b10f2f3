"""Precision and recall by nearest neighbours, and diversity, in a space of features.

Letters: n m samples, d features.
"""

from collections.abc import Sequence

import numpy as np

from flashjax.evaluate.estimates import Estimate, mean_of
from flashjax.evaluate.kernels import blocks, squared_distances

NEIGHBOURS = 3


def precision_recall(
    drawn: np.ndarray, real: np.ndarray, *, k: int = NEIGHBOURS
) -> tuple[Estimate, Estimate]:
    """The shares of drawn features "n d" within the real ones' manifold, and of real in theirs.

    A manifold is the union of balls round its points that reach to their k-th neighbours.
    Source: Kynkäänniemi et al. 2019, arXiv:1904.06991. Raises ValueError for no more than k points.
    """
    drawn, real = np.asarray(drawn, np.float64), np.asarray(real, np.float64)
    if min(len(drawn), len(real)) <= k:
        raise ValueError(f"precision_recall: {len(drawn)} and {len(real)} points; need above {k}")
    return mean_of(_covered(drawn, real, k)), mean_of(_covered(real, drawn, k))


def diversity(features: np.ndarray, groups: Sequence[str]) -> Estimate | None:
    """How unlike pictures of one group are: the mean over groups of 1 - cosine of all pairs.

    A group is what has one name in `groups` "n", a prompt; None where no name comes twice.
    """
    features = np.asarray(features, np.float64)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    names = np.asarray(groups)
    spreads = []
    for name in dict.fromkeys(groups):
        same = unit[names == name]
        if len(same) > 1:
            pairs = len(same) * (len(same) - 1)
            spreads.append(1 - (np.sum(same.sum(0) ** 2) - len(same)) / pairs)
    return mean_of(np.array(spreads)) if spreads else None


def _covered(points: np.ndarray, centres: np.ndarray, k: int) -> np.ndarray:
    """Which points "n" lie in the ball of any centre: 1.0 or 0.0."""
    radii = _radii(centres, k)
    inside = [
        (squared_distances(rows, centres) <= radii).any(1) for rows in blocks(points, len(centres))
    ]
    return np.concatenate(inside).astype(np.float64)


def _radii(points: np.ndarray, k: int) -> np.ndarray:
    """The squared distance of every point to its k-th neighbour, itself not counted."""
    radii, start = [], 0
    for rows in blocks(points, len(points)):
        distances = squared_distances(rows, points)
        distances[np.arange(len(rows)), np.arange(start, start + len(rows))] = np.inf
        radii.append(np.partition(distances, k - 1, axis=1)[:, k - 1])
        start += len(rows)
    return np.concatenate(radii)
