"""`split`: branches of the student, each for its own range of timesteps, on parallel sub-meshes."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from flashjax.checkpoint import save_params
from flashjax.flow.schedule import steps_in_range
from flashjax.parallel.branches import (
    branch_shardings,
    check_isolated,
    over_branches,
    stack,
    unstack,
)
from flashjax.parallel.mesh import without_branches
from flashjax.parallel.prepared import Prepared
from flashjax.parallel.sharding import abstract_on
from flashjax.stages.costs import match_step_flops
from flashjax.stages.distil import Method, distil
from flashjax.stages.match import (
    Advance,
    Critic,
    alternate,
    critic_of,
    make_steps,
    prompts_input,
    prompts_of,
    rates_of,
    read_critic,
)
from flashjax.stages.setting import Setting, masters, open_setting, state_layout
from flashjax.train.state import Frozen
from flashjax.types import Batch, InputError, Metrics, Params

RAW = "raw"  # units of the branches' ranges


def section_of(config: ConfigDict) -> dict[str, Any]:
    """All of a config that the stage depends on."""
    return {**config.split, "match": config.match, "student": config.student}


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains one copy of the matched student, and of its critic, per range.

    Keeps the averaged weights of each student.

    With `split.only` the job trains that branch alone, in a folder of its own: the same numbers
    from a job with its own pace and its own failures.
    """
    names, first = chosen_branches(config)
    check_job(config)

    def method(setting: Setting) -> Method:
        return branched(config, workdir, setting, names, first)

    def keep(folder: Path, state: Any, setting: Setting) -> None:
        save_branches(folder, names, state.student.ema, setting.mesh)

    return distil(
        "split",
        config,
        workdir,
        section=section_of(config),
        inputs={"match": workdir / "match"} | prompts_input(config),
        setting=lambda: open_branches(config, workdir),
        method=method,
        folder=folder_of(config.split.get("only", "")),
        keep=keep,
        results={"branches": names},
    )


def branched(
    config: ConfigDict, workdir: Path, setting: Setting, names: tuple[str, ...], first: int
) -> Method:
    """The method of `match` for the branches `names`, each on its own steps and sub-mesh."""
    student_step, critic_step, init = make_steps(config, "split", setting)
    mesh, key = setting.mesh, jax.random.key(config.seed)
    network = masters(setting.frozen.teacher)
    one = jax.eval_shape(init, network, network, key)
    shardings = branch_shardings(state_layout(one, mesh), mesh)

    def init_branches(student: Params, critic: Critic) -> Any:
        fake = critic["fake"]["params"]
        return stack([init(student, fake, key, critic)] * len(names))

    def begin(frozen: Frozen) -> Any:
        critic = read_critic(workdir, one, mesh)
        return jax.jit(init_branches, out_shardings=shardings)(frozen.student, critic)

    spans = branch_spans(config, setting.pipeline.shift)[first : first + len(names)]
    span = jax.device_put(spans, NamedSharding(mesh, PartitionSpec("branch")))
    student_step, critic_step = (
        Prepared(
            jit_on_branches(step, mesh=mesh, shardings=shardings, first=first),
            span,
            check=lambda text: check_isolated(text, mesh),
        )
        for step in (student_step, critic_step)
    )
    outer = alternate(student_step, critic_step)

    def advance(
        state: Any, frozen: Frozen, batches: tuple[Batch, ...], key: jax.Array
    ) -> tuple[Any, Metrics]:
        state, metrics = outer(state, frozen, batches, key)
        return state, by_branch(metrics, names)

    abstract = jax.eval_shape(init_branches, network, critic_of(one))
    return Method(
        abstract=abstract_on(abstract, shardings),
        begin=begin,
        advance=advance,
        steps=(critic_step, student_step),
        average=lambda state: state.student.ema,
        draws=config.match.critic_updates + 1,
        flops=match_step_flops(config, "split", setting, spans.tolist()),
        rates=rates_of(config, "split"),
    )


def open_branches(config: ConfigDict, workdir: Path) -> Setting:
    """The setting of branches: the matched student takes the steps before each of them."""
    prompts = prompts_of(config)
    return open_setting(config, workdir, mesh=mesh_of(config), student="match", prompts=prompts)


def save_branches(folder: Path, names: tuple[str, ...], averages: Any, mesh: Mesh) -> None:
    """Writes the averaged weights of every branch into a folder of its own."""
    for name, average in zip(names, unstack(jax.block_until_ready(averages), mesh), strict=True):
        save_params(folder / name / "params", average)


def mesh_of(config: ConfigDict) -> dict[str, Any]:
    """The sizes of the stage's mesh; a job of one branch has all of its devices for it."""
    sizes = config.split.mesh.to_dict()
    return without_branches(sizes) if config.split.get("only", "") else sizes


def check_job(config: ConfigDict) -> None:
    """InputError for pictures of branches, which nobody draws."""
    for key in ("sample_steps", "judge_steps"):
        if config.split.job.get(key, 0):
            raise InputError(f"split.job.{key}: branches draw no pictures yet; set it to 0")


def chosen_branches(config: ConfigDict) -> tuple[tuple[str, ...], int]:
    """The branches that this job trains, and the number of the first among all."""
    every, only = tuple(config.split.branches), config.split.get("only", "")
    if only and only not in every:
        raise InputError(f"split.only={only}: the branches are {', '.join(every)}")
    if only:
        return (only,), every.index(only)
    sizes = config.split.mesh
    size = sizes.get("branch", 1) * sizes.get("dcn", {}).get("branch", 1)
    if size != len(every):
        raise InputError(
            f"split.mesh.branch={size} but the job trains {len(every)} of split.branches: give "
            f"every branch its sub-mesh"
        )
    return every, 0


def folder_of(only: str) -> str:
    """The stage's folder: of all branches together, or of one that is a job of its own."""
    return f"split-{only}" if only else "split"


def folders_of(names: Iterable[str], workdir: Path) -> dict[str, str]:
    """The folder that has each of the branches `names`, of one job or of one each."""
    apart = not (workdir / folder_of("")).exists()
    return {name: folder_of(name if apart else "") for name in names}


def jit_on_branches(step: Advance, *, mesh: Mesh, shardings: Any, first: int = 0) -> Any:
    """`advance(state, span, frozen, batch, key)`, jitted, of all branches of a job at once."""

    def on_span(state: Any, span: Any, frozen: Frozen, batch: Any, key: Any) -> Any:
        return step(state, dataclasses.replace(frozen, span=span), batch, key)

    together = over_branches(on_span, mesh, first=first)
    return jax.jit(together, donate_argnums=0, out_shardings=(shardings, None))


def branch_spans(config: ConfigDict, shift: float) -> jax.Array:
    """First step and number of steps of every branch, int32 "branches 2", from their ranges.

    Those are of raw timesteps, or of shifted ones where `split.units` says so.
    """
    spans = branch_steps(config, config.split.branches, shift)
    return jnp.array([(steps[0], len(steps)) for steps in spans], jnp.int32)


def branch_steps(
    config: ConfigDict, branches: Mapping[str, tuple[float, float]], shift: float
) -> list[tuple[int, ...]]:
    """The student's steps of every branch, from their ranges. InputError for one without any."""
    units, found = config.split.get("units", RAW), []
    for name, (low, high) in branches.items():
        steps = steps_in_range(config.student.steps, low, high, 1.0 if units == RAW else shift)
        if not steps:
            raise InputError(
                f"split.branches.{name} ({low}, {high}] holds none of the student's "
                f"{config.student.steps} timesteps: widen it"
            )
        found.append(steps)
    return found


def by_branch(metrics: Metrics, names: tuple[str, ...]) -> Metrics:
    """Metrics with a branch dim as one metric per branch of this host: "lo/student/loss".

    Each is taken from a device of its own branch. Slicing the whole array would be a collective
    between the branches, and make them wait for each other at every step.
    """
    return {
        f"{names[shard.index[0].start or 0]}/{metric}": shard.data[0]
        for metric, value in metrics.items()
        for shard in value.addressable_shards
        if shard.replica_id == 0
    }
