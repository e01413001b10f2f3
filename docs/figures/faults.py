"""What faults of the method cost that flashjax had once, each put back alone.

    python docs/figures/faults.py FAULT --workdir DIR --only 1-renoise-t0.1-p0.02-s1

`FAULT` is a name below; the rest is given to `flashjax ablate`, of the cells that `:short` has.
Beside it, the same line with the fault `none`.
"""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from flashjax import cli
from flashjax.stages import distil, guide, match, split
from flashjax.train import match as steps
from flashjax.train import optim

CONFIG = Path(__file__).parents[2] / "configs" / "ablation_nano.py"
NO_WARMUP = ("guide", "match")  # whose averages began at the undistilled weights, and kept them


def one_count() -> None:
    """Heads that are drawn anew share the count of Adam's updates with those that are not."""
    optim.each = lambda tx: tx


def other_levels() -> None:
    """The generator's levels are uniform, while the heads learn at the fake score's density."""
    judged, drawn, here = steps.judged_term, steps.draw_levels, threading.local()

    def levels(key: Array, size: int, config: steps.MatchConfig, sigmas: Array) -> Array:
        if getattr(here, "judging", False):  # the critic's step is traced by a thread of its own
            return jax.random.uniform(key, (size,))
        return drawn(key, size, config, sigmas)

    def uniformly(*given: Any) -> Any:
        here.judging = True
        try:
            return judged(*given)
        finally:
            here.judging = False

    steps.draw_levels = levels
    steps.judged_term = uniformly


def one_batch() -> None:
    """All updates of a step, the critic's and the student's, see one batch."""
    alternate = match.alternate

    def repeated(*given: Any, **how: Any) -> Any:
        outer = alternate(*given, **how)
        return lambda state, frozen, batches, key: outer(
            state, frozen, (batches[-1],) * len(batches), key
        )

    match.alternate = split.alternate = repeated


def rounded() -> None:
    """Student and fake score begin at weights that were rounded to bfloat16."""
    read = guide.teacher_of
    less = lambda x: x.astype(jnp.bfloat16).astype(x.dtype) if x.dtype == jnp.float32 else x
    guide.teacher_of = match.teacher_of = lambda *given: jax.tree.map(less, read(*given))


def new_critic() -> None:
    """Branches begin with a fake score that is the teacher, and with random heads."""
    read = match.read_critic

    def teachers(workdir: Path, abstract: Any, mesh: Any) -> Any:
        critic = read(workdir, abstract, mesh)
        critic["fake"]["params"] = match.teacher_of(workdir, mesh)
        return critic

    match.went_on = lambda new, **_: new
    split.read_critic = teachers


def long_averages() -> list[str]:
    """Averages keep 0.999 of the past at every update, from the first one on."""
    keys = [f"--config.{stage}.average" for stage in NO_WARMUP]
    return [f"{key}.{said}" for key in keys for said in ("decay=0.999", "warmup=0.0")]


FAULTS: dict[str, Callable[[], list[str] | None]] = {
    "none": lambda: None,
    "one_count": one_count,
    "other_levels": other_levels,
    "one_batch": one_batch,
    "rounded": rounded,
    "new_critic": new_critic,
    "long_averages": long_averages,
}


def main(fault: str, *given: str) -> int:
    """Puts the fault back and runs `flashjax ablate`; its exit code."""
    if fault not in FAULTS:
        raise SystemExit(f"{fault} is none of {', '.join(FAULTS)}")
    distil.with_origin = lambda method, *_: method  # steps kept as traced are without the fault
    more = FAULTS[fault]() or []
    sys.argv = ["flashjax", "ablate", "--config", f"{CONFIG}:short", *more, *given]
    return cli.main()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
