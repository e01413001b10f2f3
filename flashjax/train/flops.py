"""Operations of each step for one sample, network by network: what the method needs, no re-run.

A backward pass costs two forward passes, one where only the input's gradient is wanted. A roll-out
costs the mean of the steps before the one that is drawn, and a backward pass of each where the
gradient goes through.
"""

from collections.abc import Mapping
from typing import TypeAlias

from flashjax.train.guide import GuideConfig
from flashjax.train.match import MatchConfig

Span: TypeAlias = tuple[int, int]  # the first step that is learnt, and how many there are


def steps_before(span: Span, *, halved: float) -> float:
    """The mean number of steps before one that `draw_step` draws of a span.

    A share `halved` is on half of the grid, where a step of two fits the span.
    """
    first, number = span
    total = 0.0
    for index in range(first, first + number):
        double = max(index // 2, (first + 1) // 2)
        on_half = halved if 2 * double < first + number else 0.0
        total += (1 - on_half) * index + on_half * double
    return total / number


def guide_flops(config: GuideConfig, forward: float, *, before: float = 0.0) -> dict[str, float]:
    """Trajectory guidance: the guided teacher's sub-steps, the student forward and backward.

    `before` is the mean number of the student's steps to the state that it begins from: without
    pictures to noise that is its own.
    """
    return {
        "roll-out": before * forward,
        "teacher": 2 * config.substeps * forward,
        "student": 3 * forward,
    }


def student_flops(
    config: MatchConfig, forward: float, heads: float, *, before: float
) -> dict[str, float]:
    """The student's step; `before` is the mean number of its steps before the drawn one.

    What a loss of weight 0 alone would need is not computed.
    """
    adversarial, features = bool(config.adversarial_weight), bool(config.feature_weight)
    anchored = bool(config.trajectory_weight)
    judged = 2 * (adversarial or features) + features  # real samples, too
    matched = bool(config.matching_weight)
    back = config.through * 2 * (before - (not anchored))  # the first step learns its trajectory
    return {
        "roll-out": (before + back) * forward,
        "student": 3 * forward,
        "teacher": 2 * (matched + anchored * config.trajectory_substeps) * forward,
        "fake": (matched + judged) * forward,
        "heads": adversarial * 2 * heads,
    }


def critic_flops(
    config: MatchConfig, forward: float, heads: float, *, before: float
) -> dict[str, float]:
    """The critic's step: the sample that it learns from, fake score and heads."""
    adversarial = bool(config.adversarial_weight)
    return {
        "roll-out": (before + 1) * forward,
        "fake": 3 * forward + adversarial * (3 if config.heads_reach else 1) * forward,
        "heads": adversarial * 6 * heads,
    }


def recomputed(
    flops: Mapping[str, float], forward: float, *, remat: str, fake_remat: str = ""
) -> float:
    """What re-computation in the backward pass adds: a forward pass per network that has one.

    `fake_remat` "" is that of the student. With "products" kept only what costs none is re-run.
    """
    kept = {"student": remat, "fake": fake_remat or remat}
    return sum(
        forward
        for name, policy in kept.items()
        if policy not in ("none", "products") and flops.get(name, 0) >= 3 * forward
    )
