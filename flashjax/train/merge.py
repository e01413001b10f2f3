"""Branches to one student: a weighted mean of weights, at no cost when the student runs.

Source: SD3.5-Flash, arXiv:2509.21318 (split-timestep fine-tuning, 3:7).
"""

from collections.abc import Sequence

import jax
from jax import Array

from flashjax.types import InputError, Params


def check_weights(weights: Sequence[float], branches: int) -> None:
    """InputError unless there is a weight for each branch, and they sum to 1."""
    if branches != len(weights) or abs(sum(weights) - 1.0) > 1e-6:
        raise InputError(f"merge.weights {tuple(weights)} must be {branches} numbers that sum to 1")


def merge(branches: Sequence[Params], weights: Sequence[float]) -> Params:
    """`sum_i weights[i] * branches[i]`, leaf by leaf. InputError unless the weights sum to 1.

    What is equal in all branches stays as it is, bit for bit.
    """
    check_weights(weights, len(branches))
    shares = list(weights)[1:]

    def mean(first: Array, *others: Array) -> Array:
        return first + sum(w * (leaf - first) for w, leaf in zip(shares, others, strict=True))

    return jax.tree.map(mean, *branches)
