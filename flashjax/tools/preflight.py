"""Before `run`, every stage, `launch` and in `--dry_run`: all that can be known to be wrong.

Every check reads names, sizes and shapes only, and says all that it finds: one line for each.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.checkpoint import Kept
from flashjax.convert.folder import read_configs, settings
from flashjax.data.cache import MANIFEST
from flashjax.data.config import DrawConfig
from flashjax.data.prompts import Prompts
from flashjax.data.tokenizers import check_fits, load_tokenizers
from flashjax.flow.schedule import sampler_sigmas, student_sigmas
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.text import AbsentT5, TextConfig
from flashjax.parallel.chips import chip_of
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.units import sized
from flashjax.sources import transformer_sizes
from flashjax.stages import draw, export, match, split
from flashjax.stages.contents import bytes_below
from flashjax.stages.evaluate import BITS
from flashjax.stages.model import MODEL, home_of, read_model, source_of
from flashjax.stages.prepare import check_unchanged
from flashjax.stages.registry import (
    check_data,
    check_held_out,
    check_judged,
    check_judges,
    has_task,
    open_samples,
)
from flashjax.stages.setting import student_steps
from flashjax.stages.training import JobConfig
from flashjax.tools import sections
from flashjax.tools.jobs import asked
from flashjax.tools.plan.programs import Model, ModelConfig, Planned, device_bytes, programs
from flashjax.tools.plan.report import checkpoint_bytes
from flashjax.tools.verbs import ROAD
from flashjax.train.arms import MatchConfig
from flashjax.train.merge import check_weights
from flashjax.types import InputError

JOBS = {"guide": "guide", "match": "student", "split": "split-student"}  # section: its program
MFU = 0.4  # of a chip's peak: what such steps reach

Problems = Iterator[str]


def problems(config: ConfigDict, workdir: Path, stages: Sequence[str] = tuple(ROAD)) -> list[str]:
    """What is wrong with a config on this machine, in the order of the road; nothing is written.

    Of other stages only what depends on nothing but the config is looked at: what was there for the
    ones before is no longer asked for, and what the ones after need may still come.
    """
    wrong = sections.problems(config, stages[0] if len(stages) == 1 else "run")
    found = [line for error in wrong for line in error.args]
    if all(isinstance(error, configs.OutOfRange) for error in wrong):  # others stumble over types
        found += [line for check in CHECKS for line in check(config, stages)]
        if "match" in stages and "import" not in stages and (workdir / "import" / MODEL).exists():
            found += told(check_taps, config, read_model(workdir).transformer)
    if not found and "prepare" in stages:
        found = told(check_prepared, config, workdir)
    if not found and {"import", "guide"} <= set(stages):
        found = list(space(config, workdir))
    return list(dict.fromkeys(found))


def of_cells(config: ConfigDict, cells: Mapping[str, tuple[ConfigDict, str]]) -> list[str]:
    """What is wrong with a config of students that are guided, matched and judged.

    `cells` has the config of each by its name, and its last stage that trains.
    """
    stages = ("import", "prepare", "guide", "match", "evaluate")
    found = [line for check in (teacher, data, heads, prompts) for line in check(config, stages)]
    if found:
        return found
    shift = model_of(config).drawn.shift
    found = told(check_samplers, config, {})
    return found + [
        f"{name}: {line}"
        for name, (cell, last) in cells.items()
        for line in told(check_grid, cell, [last], shift)
    ]


def elsewhere(
    config: ConfigDict, stages: Sequence[str], shapes: Mapping[str, Mapping[str, int]]
) -> list[str]:
    """The same of a run on other machines: all but what only their files and devices can tell.

    `shapes` gives the meshes there, by the section that describes each: "" and "split".
    """
    wrong = sections.problems(config, stages[0] if len(stages) == 1 else "run")
    found = [line for error in wrong for line in error.args]
    if all(isinstance(error, configs.OutOfRange) for error in wrong):
        found += [line for check in ANYWHERE for line in check(config, stages)]
        for section, shape in shapes.items():
            jobs = ["split"] if section else [n for n in ("guide", "match") if n in stages]
            found += batches(config, jobs, shape)
    return list(dict.fromkeys(found))


def teacher(config: ConfigDict, stages: Sequence[str]) -> Problems:
    """The teacher is there, with all that its file lacks, and has the blocks that are tapped."""
    if "import" not in stages:
        return
    missing = [*told(source_of, config), *told(home_of, config)]
    yield from missing
    if not missing and "match" in stages:
        yield from told(check_taps, config, model_of(config).transformer)
    if not missing and "prepare" in stages:
        yield from told(check_size, config)


def grid(config: ConfigDict, stages: Sequence[str]) -> Problems:
    """The student's grid on the teacher's schedule has the levels and the branches of its stages.

    `match` and `split` would find it out when they begin.
    """
    if "import" not in stages or "data" not in config:  # whose size a schedule may depend on
        return
    if not told(source_of, config) and not told(home_of, config):
        yield from told(check_grid, config, stages)
        drawn = {"student.steps": config.student.steps} if "evaluate" in stages else {}
        yield from told(check_samplers, config, drawn)


def check_samplers(config: ConfigDict, steps: Mapping[str, int]) -> None:
    """InputError where the teacher's scheduler has no grid of its own, or of other `steps`, by key.

    It would be found out after all of the training.
    """
    model, schedule = model_of(config), settings(home_of(config))["schedule"]
    tokens = (model.drawn.sample_size // model.transformer.patch) ** 2
    if "evaluate" in config:
        steps = {"evaluate.teacher_steps": config.evaluate.teacher_steps, **steps}
    if drawn := draw.steps_of(config):
        steps = {"data.draw.steps": drawn, **steps}
    for key, number in steps.items():
        try:
            sampler_sigmas(number, schedule, tokens)
        except InputError as error:
            raise InputError(f"{key}={number}: {error}") from error


def check_grid(config: ConfigDict, stages: Sequence[str], shift: float | None = None) -> None:
    """InputError for levels and branches that a grid of this, or the teacher's, shift has not."""
    shift = model_of(config).drawn.shift if shift is None else shift
    if "match" in stages:
        losses = configs.section(config, "match.match", MatchConfig)
        match.check_levels(losses, student_sigmas(student_steps(config), shift))
    if "split" in stages:
        split.branch_steps(config, config.split.branches, shift)


def check_taps(config: ConfigDict, sizes: MMDiTConfig) -> None:
    """InputError for heads on blocks that the teacher has not."""
    depth, taps = sizes.depth, config.match.heads.taps
    if not taps or min(taps) < 0 or max(taps) >= depth:
        raise InputError(f"match.heads.taps={taps}: the teacher has blocks 0 to {depth - 1}")


def check_size(config: ConfigDict) -> None:
    """InputError for pictures that the teacher has no places for."""
    model = model_of(config)
    sizes, side = model.transformer, model.drawn.sample_size
    most, size = sizes.patch * sizes.position_size, config.data.get("size", 0)
    if size and (side > most or side % sizes.patch):
        factor = size // side
        raise InputError(
            f"data.size={size}: the teacher has places for {most * factor} pixels a "
            f"side, in steps of {sizes.patch * factor}"
        )


def data(config: ConfigDict, stages: Sequence[str]) -> Problems:
    """The samples are there, enough of them are held out, drawn ones have captions."""
    if "prepare" not in stages:
        return
    missing = told(check_data, config)
    yield from missing
    if not missing and "evaluate" in stages:
        yield from told(check_held_out, config)
        if not told(check_judges, config.evaluate.judges):
            yield from told(check_judged, config)
    if draw.steps_of(config):
        yield from told(draw.captions_of, config, Path())


def check_prepared(config: ConfigDict, workdir: Path) -> None:
    """InputError where the samples have changed since they were cached.

    `prepare`, which is done, would be skipped, and students would learn what was there before. What
    a task or a teacher makes is left to their stages.
    """
    made = has_task(config) or draw.steps_of(config)
    if (workdir / "prepare" / MANIFEST).is_file() and not made:
        check_unchanged(workdir, open_samples(config, workdir / "data")["train"])


def heads(config: ConfigDict, stages: Sequence[str]) -> Problems:
    """Matching fits the student, heads have pictures to see, and judges are known.

    `match` would find it out after all of `guide`, and `split` after all of `match`.
    """
    if "match" in config:
        yield from told(match.matching_of, config, "split" if "split" in stages else "match")
        yield from told(match.prompts_of, config)
    if "evaluate" in config:
        yield from told(check_judges, config.evaluate.judges)


def prompts(config: ConfigDict, stages: Sequence[str]) -> Problems:
    """Captions can be read."""
    del stages
    for name in ("match", "evaluate"):
        if name in config and (file := config[name].get("prompts", "")):
            yield from (f"{name}.prompts: {line}" for line in told(Prompts, file))


def meshes(config: ConfigDict, stages: Sequence[str]) -> Problems:
    """Devices make the meshes of the stages, and batches split over them."""
    jobs = [name for name in ("guide", "match") if name in stages]
    if any("mesh" in sections.NEEDS[name] for name in stages if name != "split"):
        try:
            shape = make_mesh(config.mesh).shape
        except InputError as error:
            yield f"mesh: {error}"
        else:
            if "prepare" in stages and draw.steps_of(config):
                size = config.data.draw.get("batch_size", DrawConfig.batch_size)
                yield from told(draw.check_batch, size, shape)
            yield from batches(config, jobs, shape)
    if "split" in stages:
        try:
            shape = make_mesh(split.mesh_of(config)).shape
        except InputError as error:
            yield f"split.mesh: {error}"
        else:
            yield from batches(config, ["split"], shape)


def batches(config: ConfigDict, jobs: Sequence[str], shape: Mapping[str, int]) -> Problems:
    """The batches of jobs split over a mesh of this shape, in as many parts as they are taken."""
    rows = shape["data"] * shape["fsdp"]
    for job in jobs:
        method = config.guide.guide if job == "guide" else config.match.match
        size, parts = config[job].job.batch_size, max(1, method.get("parts", 1))
        if size % (rows * parts):
            yield (
                f"{job}.job.batch_size={size} does not split into {parts} part(s) over data x "
                f"fsdp = {rows} devices: make it a multiple of {rows * parts}"
            )


def results(config: ConfigDict, stages: Sequence[str]) -> Problems:
    """Branches, merge, export and quantization ask for what there is."""
    del stages
    if "split" in config and "student" in config:
        yield from told(split.chosen_branches, config)
        yield from told(split.check_job, config)
        if config.split.get("units", split.RAW) == split.RAW:  # a schedule's shift is not read here
            yield from told(split.branch_steps, config, config.split.branches, 1.0)
    if "merge" in config:
        weights = config.merge.weights
        if "split" in config and set(weights) != set(config.split.branches):
            names = ", ".join(config.split.branches)
            yield f"merge.weights names {', '.join(weights)}: the branches are {names}"
        yield from told(check_weights, tuple(weights.values()), len(weights))
    if "export" in config and config.export.dtype not in export.DTYPES:
        yield f"export.dtype={config.export.dtype}: choose one of {list(export.DTYPES)}"
    if "quantize" in config:
        if not config.quantize.schemes:
            yield f"quantize.schemes is empty: choose of {', '.join(BITS)}"
        for scheme in config.quantize.schemes:
            if scheme not in BITS:
                yield f"quantize.schemes: {scheme!r} is unknown: choose of {', '.join(BITS)}"


Check: TypeAlias = Callable[[ConfigDict, Sequence[str]], Problems]
CHECKS: tuple[Check, ...] = (teacher, grid, data, heads, prompts, asked, meshes, results)
ANYWHERE: tuple[Check, ...] = (heads, results)  # what can be said on any machine


def space(config: ConfigDict, workdir: Path) -> Problems:
    """What the jobs keep fits this machine's devices and the workdir's disk."""
    planned = steps_of(config)
    memory = _memory()
    for program in planned:
        need = resident_bytes(program)
        if memory and need > memory:
            yield (
                f"{program.name} keeps {sized(need)} on a device of {sized(memory)}: "
                f"split it further, with a larger mesh.fsdp"
            )
    need, free = disk_bytes(config, planned), shutil.disk_usage(_existing(workdir)).free
    there = sum(bytes_below(path) for path in workdir.glob("*/checkpoints"))
    if need > free + there:  # of a run that goes on
        yield (
            f"--workdir {workdir} has {sized(free)} free, and the checkpoints of this run "
            f"take {sized(need)}"
        )


def estimate(config: ConfigDict) -> str:
    """What a run takes, in words: bytes on a device, on the disk, hours where the chip is known."""
    planned = steps_of(config)
    memory = max(map(resident_bytes, planned))
    words = [
        f"weights and states {sized(memory)} on a device",
        f"checkpoints {sized(disk_bytes(config, planned))}",
    ]
    chip = chip_of(jax.devices()[0].device_kind)
    if chip:
        hours = sum(seconds_of(program, chip.flops) for program in planned) / 3600
        words.append(f"training {hours:.1f} h at {100 * MFU:.0f} % of {chip.name}'s peak")
    return "; ".join(words) + "; `flashjax plan` compiles the steps and says it exactly"


def steps_of(config: ConfigDict) -> list[Planned]:
    """The training steps of a config for its own teacher, as shapes alone."""
    planned = programs(config, jax.devices(), model=model_of(config))
    return [program for program in planned if program.name != "text"]


def model_of(config: ConfigDict) -> Model:
    """The teacher as its files say it is; no weight is read."""
    source, home = source_of(config), home_of(config)
    known, tokenizer = read_configs(home), load_tokenizers(home)
    transformer = transformer_sizes(source, home)
    t5 = known.get("t5") or AbsentT5(transformer.text_width, config.teacher.absent_t5)
    text = TextConfig(known["clip_l"], known["clip_g"], t5, tokenizer.clip_length)
    check_fits(tokenizer, text.vocabularies, str(home), places=text.places)
    factor, told_of = known["vae"].factor, settings(home)
    side = config.data.get("size", 0) or told_of["sample_size"] * factor
    size = side // factor
    shift = told_of["schedule"].shift_of((size // transformer.patch) ** 2)
    return Model(
        ModelConfig(str(source), sample_size=size, shift=shift, t5_tokens=tokenizer.t5_length),
        transformer,
        text,
    )


def resident_bytes(program: Planned) -> int:
    """Bytes on a device that stay from step to step: a state, frozen networks, a batch."""
    return program.resident + sum(map(device_bytes, jax.tree.leaves(program.arguments)))


def disk_bytes(config: ConfigDict, planned: list[Planned]) -> int:
    """Bytes of the checkpoints of all jobs, as many as are kept of each."""
    programs_of = {program.name: program for program in planned}
    return sum(
        kept_of(configs.section(config, f"{section}.job", JobConfig))
        * checkpoint_bytes(programs_of[name])
        for section, name in JOBS.items()
        if name in programs_of
    )


def kept_of(job: JobConfig) -> int:
    """How many checkpoints of a job are there at once, when it is at its end."""
    saved = {*range(job.checkpoint_steps, job.steps, job.checkpoint_steps), job.steps}
    stay = Kept(job.keep, job.milestone_steps).stay(saved)
    judged = {step for step in saved - stay if job.judge_steps and step % job.judge_steps == 0}
    return len(stay) + min(job.best, len(judged))


def seconds_of(program: Planned, flops: float) -> float:
    """Seconds of all calls of a step."""
    work = sum(program.flops.values()) * program.samples * program.branches * program.calls
    return work / (program.mesh.size * flops * MFU)


def told(call: Callable[..., Any], *arguments: Any) -> list[str]:
    """What a call refuses, as lines; nothing if it goes well."""
    return [line for error in sections.refused(call, *arguments) for line in error.args]


def _memory() -> float:
    """Bytes of one device, or 0 where nobody knows."""
    stats: Mapping[str, int] = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit", 0)


def _existing(path: Path) -> Path:
    """The nearest folder above a path that is there already."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())
