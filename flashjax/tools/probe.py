"""`probe`: what the gradient of matching is made of, from a checkpoint of a run's `match`.

For every arm and student step it takes as many gradients: some inputs, and at each some draws of
what matching draws. All of an arm's mean gradients stay in memory: inputs x weights x 4 bytes.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from flashjax import config as configs
from flashjax.checkpoint import Checkpoints
from flashjax.data.jsons import read_json
from flashjax.parallel.hosts import keep_programs
from flashjax.parallel.mesh import simulate_devices
from flashjax.stages.contents import CHECKPOINTS
from flashjax.stages.match import check_levels, matched, prompts_of
from flashjax.stages.setting import Setting, open_setting, read_setting
from flashjax.stages.stage import steps_saved
from flashjax.tools import sections
from flashjax.tools.bench.measuring import check_file, keep_file
from flashjax.train.arms import MatchConfig
from flashjax.train.probe import UNPROBED, make_probe
from flashjax.train.signal import Drawn, collect, cosine, signal
from flashjax.train.state import MatchState
from flashjax.types import Batch, InputError

ARMS: Mapping[str, Mapping[str, Any]] = {  # what each changes in match.match
    "own": {},
    "shared": {"eta": 0.0, "level": "any", "last": "renoise"},
    "shared_all": {"eta": 0.0, "level": "any", "last": "share"},
    "next": {"eta": 0.0, "level": "next", "last": "renoise"},
    "grid": {"eta": 1.0, "level": "grid"},
    "renoised": {"eta": 1.0, "level": "uniform"},
    "line": {"eta": 0.0, "level": "line"},
}

log = logging.getLogger(__name__)


def run(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Prints a table, or JSON. InputError for a run without `match`, or a step that is not kept."""
    names = options.arms.split(",")
    if wrong := [name for name in names if name not in ARMS]:
        raise InputError(f"--arms {', '.join(wrong)}: choose of {', '.join(ARMS)}")
    if min(options.inputs, options.draws) < 2 or options.batch < 1:
        raise InputError("give 2 or more --inputs and --draws: one has no variance; and a --batch")
    check_file(options.out, "--out")
    workdir = Path(options.workdir).absolute()
    config = config_of(options, overrides, workdir)
    sections.check(config, "match")
    if config.match.match.get("through", False) and "own" in names:
        raise InputError(f"--arms own: {UNPROBED}; give --arms shared,renoised")
    step = step_of(workdir / "match", options.step)
    simulate_devices(config.simulate_devices)
    keep_programs(workdir / "compiled")
    told = probed(config, workdir, step, names, options)
    if options.out:
        keep_file(Path(options.out), told)
    print(json.dumps(told, indent=2) if options.json else table(told))


def config_of(options: argparse.Namespace, overrides: Sequence[str], workdir: Path) -> ConfigDict:
    """The config of a file, or the one that the run keeps."""
    if options.config:
        return sections.load(options.config, overrides)
    if overrides:
        raise InputError(f"--config.{overrides[0]} changes a config: give --config FILE too")
    path = workdir / "config.json"
    if not path.is_file():
        raise InputError(f"{path} is not there: give the --config of the run")
    return ConfigDict(read_json(path)).lock()


def step_of(folder: Path, asked: int | None) -> int:
    """The step of `match` that is probed."""
    kept = steps_saved(folder)
    if asked == 0:
        return 0
    if not kept:
        raise InputError(f"{folder} has no checkpoints: run `flashjax match`, or give --step 0")
    if asked is not None and asked not in kept:
        raise InputError(f"--step {asked}: kept are {', '.join(map(str, [0, *kept]))}")
    return kept[-1] if asked is None else asked


def probed(
    config: ConfigDict, workdir: Path, step: int, names: Sequence[str], options: argparse.Namespace
) -> dict[str, Any]:
    """All figures of a step, as JSON: by student step, then by arm or pair of arms."""
    shapes = open_setting(config, workdir, mesh=config.mesh, prompts=prompts_of(config))
    own = configs.section(config, "match.match", MatchConfig)
    sigmas = np.asarray(shapes.sigmas)
    own = dataclasses.replace(own, interval_target="unbiased")  # the critic's, who learns nothing
    arms = {
        name: dataclasses.replace(own, **ARMS[name], through=own.through and name == "own")
        for name in names
    }
    for arm in arms.values():
        check_levels(arm, sigmas)
    setting = read_setting(config, workdir, shapes)
    state = state_at(config, workdir, setting, step)
    batches = setting.batches(options.batch, seed=options.seed)
    inputs = [next(batches) for _ in range(options.inputs)]
    probes = {
        name: jax.jit(make_probe(setting.nets, arm, setting.sigmas)) for name, arm in arms.items()
    }
    steps = []
    for index in range(len(sigmas) - 1):
        drawn, figures = {}, {}
        for name, probe in probes.items():
            one = functools.partial(probe, state, setting.frozen)
            drawn[name], figures[name] = gradients_of(one, inputs, index, options)
            log.info("probe: step %d of %d, %s", index + 1, len(sigmas) - 1, name)
        pairs = itertools.combinations(names, 2)
        steps.append(
            {
                "sigma": float(sigmas[index]),
                "arms": {name: plain(signal(drawn[name]) | figures[name]) for name in names},
                "cosines": plain({f"{a}, {b}": cosine(drawn[a], drawn[b]) for a, b in pairs}),
            }
        )
    asked = {key: getattr(options, key) for key in ("inputs", "draws", "batch", "seed")}
    return {"workdir": str(workdir), "step": step, **asked, "student_steps": steps}


def state_at(config: ConfigDict, workdir: Path, setting: Setting, step: int) -> MatchState:
    """The state after a step of `match`."""
    method = matched(config, workdir, setting)
    if not step:
        return method.begin(setting.frozen)
    checkpoints = Checkpoints(workdir / "match" / CHECKPOINTS, read_only=True)
    try:
        return checkpoints.restore(step, method.abstract)[0]
    finally:
        checkpoints.close()


def gradients_of(
    probe: Any, inputs: Sequence[Batch], index: int, options: argparse.Namespace
) -> tuple[Drawn, dict[str, tuple[float, float]]]:
    """The gradients at all inputs and draws, and the means of the figures with their intervals."""
    key = jax.random.fold_in(jax.random.key(options.seed), index)
    told: list[dict[str, float]] = []

    def gradient(number: int, draw: int) -> np.ndarray:
        keys = jax.random.fold_in(key, number), jax.random.fold_in(key, 1000 * (number + 1) + draw)
        found, figures = probe(inputs[number], jnp.int32(index), *keys)
        told.append({name: float(value) for name, value in figures.items()})
        return np.asarray(found)

    drawn = collect(gradient, len(inputs), options.draws)
    rows = {name: [figures[name] for figures in told] for name in told[0]}
    shaped = {name: np.reshape(row, (len(inputs), -1)).mean(1) for name, row in rows.items()}
    tail = float(stats.t.ppf(0.975, len(inputs) - 1))  # few inputs: no normal distribution
    half = lambda values: tail * float(values.std(ddof=1)) / len(values) ** 0.5
    return drawn, {name: (float(row.mean()), half(row)) for name, row in shaped.items()}


def plain(found: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, float | None]]:
    """Values with half of their intervals, as JSON: null where there is none."""
    number = lambda value: float(value) if np.isfinite(value) else None
    return {k: {"value": number(v), "half": number(half)} for k, (v, half) in found.items()}


def table(told: Mapping[str, Any]) -> str:
    """The figures for a reader, a line for each arm and student step."""
    lines = [
        f"step {told['step']} of match: {told['inputs']} inputs x {told['draws']} draws of "
        f"{told['batch']} samples; +- half of a 95 % interval over the inputs"
    ]
    for step in told["student_steps"]:
        lines.append(f"sigma {step['sigma']:.3g}")
        for name, figures in step["arms"].items():
            words = (f"{figure} {_told(value)}" for figure, value in figures.items())
            lines.append(f"  {name:10} {'  '.join(words)}")
        lines += [f"  cosine of {pair}: {_told(v)}" for pair, v in step["cosines"].items()]
    return "\n".join(lines)


def _told(found: Mapping[str, float | None]) -> str:
    if found["value"] is None:
        return "-"
    half = "" if found["half"] is None else f" +- {found['half']:.2g}"
    return f"{found['value']:.3g}{half}"
