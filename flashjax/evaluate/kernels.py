"""The squared maximum mean discrepancy between two sets of features, unbiased.

Letters: n m samples, d features.
"""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from flashjax.evaluate.estimates import Estimate

Kernel: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]  # "n d", "m d" to "n m"
ELEMENTS = 2**24  # of a kernel matrix that is there at a time


def mmd(x: np.ndarray, y: np.ndarray, kernel: Kernel, *, paired: bool = False) -> Estimate:
    """MMD^2 of features "n d" and "m d" in float64, with the influence of the rows of x.

    Source: Gretton et al. 2012 (JMLR 13), lemma 6: no sample is compared with itself, so the value
    of two sets of one distribution is 0 in the mean, and may be below. Rows that are `paired`, of
    the same noise, are not compared with each other either (equation 4). Raises ValueError for bad
    shapes.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"mmd: features {x.shape} and {y.shape}; need (n >= 2, d) of equal d")
    within, among = _others(x, kernel), _others(y, kernel)
    if paired and len(x) != len(y):
        raise ValueError(f"mmd: {len(x)} and {len(y)} rows are no pairs")
    sums = np.concatenate([kernel(rows, y).sum(1) for rows in blocks(x, len(y))])
    alike = [kernel(a[None], b[None])[0, 0] for a, b in zip(x, y, strict=True)] if paired else 0.0
    across = (sums - alike) / (len(y) - paired)
    value = within.mean() + among.mean() - 2 * across.mean()
    influence = 2 * (within - across)
    return Estimate(float(value), influence - influence.mean())


def gaussian(sigma: float) -> Kernel:
    """exp(-|x - y|^2 / (2 sigma^2))."""
    return lambda x, y: np.exp(-squared_distances(x, y) / (2 * sigma**2))


def cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x . y / d + 1)^3: the kernel of KID. Source: Binkowski et al. 2018, arXiv:1801.01401."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x - y|^2 for all pairs of rows of "n d" and "m d"."""
    squares = (x * x).sum(1)[:, None] + (y * y).sum(1)[None]
    return np.maximum(squares - 2 * x @ y.T, 0)


def blocks(x: np.ndarray, against: int) -> Iterator[np.ndarray]:
    """The rows of x in blocks whose products with `against` rows fit the memory."""
    size = max(1, ELEMENTS // against)
    return (x[start : start + size] for start in range(0, len(x), size))


def _others(x: np.ndarray, kernel: Kernel) -> np.ndarray:
    """For every row the mean of its kernel with all other rows."""
    alone = np.concatenate([kernel(row[None], row[None])[0] for row in x])
    sums = np.concatenate([kernel(rows, x).sum(1) for rows in blocks(x, len(x))])
    return (sums - alone) / (len(x) - 1)
