"""Estimates from samples, with how much each sample moves them: what a bootstrap interval needs.

Letters: n samples.
"""

from dataclasses import dataclass

import numpy as np

RESAMPLES, LEVEL = 1000, 0.95


@dataclass(frozen=True, eq=False)
class Estimate:
    """A value, and the influence "n" of every sample on it, of mean 0.

    To the first order a set in which samples repeat has the value + the mean of their influences.
    Source: Efron 1982, "The jackknife, the bootstrap and other resampling plans", chapter 6.
    """

    value: float
    influence: np.ndarray

    def __mul__(self, factor: float) -> "Estimate":
        return Estimate(factor * self.value, factor * self.influence)

    @property
    def interval(self) -> float:
        """Half the width of the central 95 % of bootstrap values."""
        count, random = len(self.influence), np.random.default_rng(0)
        means = [
            self.influence[random.integers(count, size=count)].mean() for _ in range(RESAMPLES)
        ]
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(means, (tail, 1 - tail))
        return float(high - low) / 2


def mean_of(values: np.ndarray) -> Estimate:
    """The mean of values "n"."""
    mean = float(np.mean(values))
    return Estimate(mean, np.asarray(values, np.float64) - mean)
