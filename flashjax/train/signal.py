"""Signal and noise of gradients: estimates without bias from some inputs, and draws at each.

Letters: k inputs, p parameters.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

RESAMPLES, LEVEL = 1000, 0.95


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """Gradients of one arm at one step: `means` "k p" over so many `draws` at each input, and
    `within` "k", the summed variance of the draws there.
    """

    means: np.ndarray
    within: np.ndarray
    draws: int


def collect(gradients: Callable[[int, int], np.ndarray], inputs: int, draws: int) -> Drawn:
    """What the gradients "p" of every input and draw come to.

    ValueError for fewer than two of either: there would be no variance.
    """
    if min(inputs, draws) < 2:
        raise ValueError(f"probe: {inputs} inputs and {draws} draws; need two of each")
    means, within = [], []
    for number in range(inputs):
        found = np.stack([np.asarray(gradients(number, draw)) for draw in range(draws)])
        mean = found.mean(0, dtype=np.float64)
        means.append(mean.astype(np.float32))
        within.append(np.sum(np.square(found - mean)) / (draws - 1))
    return Drawn(np.stack(means), np.array(within), draws)


def signal(drawn: Drawn) -> dict[str, tuple[float, float]]:
    """What a single gradient is made of, each with half of its interval over the inputs.

    `snr` is |mean|^2 over all of the variance, `snr_of_draws` over that of the draws at a fixed
    input; `noise_share` is the share of the variance that the draws have. All three come from
    estimates without bias: the mean's square from pairs of different inputs.
    """
    gram = np.asarray(drawn.means, np.float64) @ drawn.means.T

    def figures(rows: np.ndarray) -> dict[str, float]:
        mean = _apart(gram, rows)
        noise = drawn.within[rows].mean()
        total = gram[rows, rows].mean() - mean - noise / drawn.draws + noise
        return {"snr": mean / total, "snr_of_draws": mean / noise, "noise_share": noise / total}

    return _with_errors(figures, len(gram))


def cosine(one: Drawn, other: Drawn) -> tuple[float, float]:
    """The cosine of the mean gradients of two arms at the same inputs, with half of its interval.

    NaN where an arm's mean is lost in its noise.
    """
    a, b = (np.asarray(drawn.means, np.float64) for drawn in (one, other))
    within, across = (a @ a.T, b @ b.T), a @ b.T

    def figures(rows: np.ndarray) -> dict[str, float]:
        squares = [_apart(gram, rows) for gram in within]
        good = min(squares) > 0
        length = np.sqrt(squares[0] * squares[1]) if good else np.nan
        return {"cosine": _apart(across, rows) / length}

    return _with_errors(figures, len(a))["cosine"]


def _apart(gram: np.ndarray, rows: np.ndarray) -> float:
    """The mean of products over pairs of different inputs; one that was drawn twice is none."""
    apart = rows[:, None] != rows[None, :]
    return float(np.mean(gram[np.ix_(rows, rows)][apart])) if apart.any() else np.nan


def _with_errors(
    figures: Callable[[np.ndarray], dict[str, float]], inputs: int
) -> dict[str, tuple[float, float]]:
    """Figures of all inputs, each with half the width of its central 95 % of bootstrap values.

    NaN stands for an interval that fewer than three inputs do not have.
    """
    random = np.random.default_rng(0)
    with np.errstate(divide="ignore", invalid="ignore"):  # without noise there is no ratio to it
        found = [figures(random.integers(inputs, size=inputs)) for _ in range(RESAMPLES)]
        whole = figures(np.arange(inputs))
    tail = (1 - LEVEL) / 2

    def half(name: str) -> float:
        values = np.array([values[name] for values in found])
        sound = values[np.isfinite(values)]
        if inputs < 3 or not len(sound):  # of two there is one pair, whatever is drawn
            return float("nan")
        low, high = np.quantile(sound, (tail, 1 - tail))
        return float(high - low) / 2

    return {name: (float(value), half(name)) for name, value in whole.items()}
