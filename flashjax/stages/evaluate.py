"""`evaluate`: every sampler of a run on the same captions and noise, timed, and judged."""

import dataclasses
import functools
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from flashjax.convert.folder import read_transformer
from flashjax.convert.table import Placement
from flashjax.convert.transformer import transformer_from
from flashjax.data.jsons import read_array, read_json
from flashjax.data.prompts import read_prompts
from flashjax.data.remote.fetch import fetched
from flashjax.evaluate.judge import Compared, Figure, Judge, figures_of, told
from flashjax.evaluate.sample import Drawn, Sampler
from flashjax.evaluate.unseen import Unseen, halves
from flashjax.flow.schedule import sampler_sigmas, student_sigmas
from flashjax.parallel.hosts import meet
from flashjax.parallel.mesh import make_mesh, without_branches
from flashjax.quantize.containers.gguf import open_gguf
from flashjax.stages.compute import DTYPES, compute_of
from flashjax.stages.drawing import Studio, draw_all, first_sees, make_studio
from flashjax.stages.export import FOLDER, HALVED
from flashjax.stages.model import home_of, network_shardings, open_model, student_of
from flashjax.stages.prepare import check_unchanged
from flashjax.stages.registry import (
    check_judged,
    check_judges,
    open_judges,
    open_samples,
    weights_of,
)
from flashjax.stages.stage import run_stage, write_json
from flashjax.types import InputError, Params

log = logging.getLogger(__name__)

BITS = {"f16": "16-bit", "q8_0": "8-bit", "q6_k": "6-bit"}
DRAWN, ROW, SHOWN, PICTURES = "drawn", "row.json", "shown.npy", "pictures.npy"


@dataclasses.dataclass(frozen=True)
class Contender:
    """One row of the comparison: whose weights, on which grid; `read` brings them to the mesh."""

    name: str
    group: str
    note: str
    sampler: Sampler
    read: Callable[[], Params]


def section_of(config: ConfigDict) -> dict[str, Any]:
    """All of a config that the stage depends on."""
    return {
        **config.evaluate,
        "student": config.student,
        "size": config.data.get("size", 0),
        "compute": dataclasses.asdict(compute_of(config)),
    }


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Draws, judges and times; keeps the figures and the first pictures of every sampler.

    All devices draw together, and the first process judges. What is drawn is on disk: a run that
    was interrupted goes on where it was.
    """

    def body(folder: Path) -> dict[str, Any]:
        check_judges(config.evaluate.judges)
        check_judged(config)
        mesh = make_mesh({**without_branches(config.mesh), "data": -1})
        pipeline, tokenizer = open_model(workdir, mesh)
        studio = make_studio(config, mesh, pipeline, tokenizer([""]))
        teacher = studio.place(pipeline.transformer, role="teacher")
        unseen = open_unseen(config, workdir)
        file = config.evaluate.get("prompts", "")
        prompts = read_prompts(file) if file else unseen.captions
        prompts = prompts + prompts[: config.evaluate.get("twice", 0)]
        tokens = tokenizer(prompts)
        programs = functools.cache(studio.program)  # one compilation for all weights on one grid
        judges, places = None, []
        for number, contender in enumerate(contenders(config, workdir, studio, teacher)):
            place = folder / DRAWN / f"{number:02}"
            places.append(place)
            if number and first_sees((place / ROW).is_file()):
                continue
            draw = functools.partial(programs(contender.sampler), contender.read())
            chunk = studio.chunk(config.evaluate.chunk, contender.sampler, tokens)
            asked = {"seed": config.evaluate.seed, "chunk": chunk}
            drawn = draw_all(studio, draw, tokens, place, **asked)
            if drawn is not None:
                if judges is None:  # the first is the teacher, with whom others are compared
                    compared = Compared(unseen.others, drawn.images, workdir / "data" / "features")
                    judges = open_all(config, compared, prompts)
                keep(place, contender, drawn, judges, prompts, shown=config.evaluate.shown)
        meet("all pictures are judged")
        return {} if judges is None else gather(folder, places, unseen, judges, prompts)

    return run_stage(
        "evaluate",
        section_of(config),
        workdir,
        body,
        inputs={name: workdir / name for name in ("guide", "match", "export", "quantize")}
        | inputs_of(config),
        seed=config.seed,
    )


def inputs_of(config: ConfigDict) -> dict[str, Path]:
    """The files that figures depend on: prompts, and the weights of judges that are named."""
    file = config.evaluate.get("prompts", "")
    found = {"prompts": fetched(file)} if file else {}
    return found | weights_of(config.evaluate.judges)


def open_all(config: ConfigDict, compared: Compared, prompts: list[str]) -> list[Judge]:
    """The judges of the config; a line where there are none."""
    judges = open_judges(config.evaluate.judges, home_of(config), compared, prompts)
    if not judges:
        log.info("evaluate.judges names nobody: pictures are drawn and timed, not measured")
    return judges


def keep(
    place: Path,
    contender: Contender,
    drawn: Drawn,
    judges: Sequence[Judge],
    prompts: list[str],
    *,
    shown: int,
) -> None:
    """Judges a contender's pictures and writes its row; of the pictures the first are kept.

    All of the first contender's are: a run that goes on compares with them.
    """
    row = describe(contender) | measure(judges, drawn.images, prompts)
    row |= {"seconds_per_image": drawn.seconds_per_image}
    log_row(row)
    np.save(place / SHOWN, drawn.images[:shown], allow_pickle=False)
    write_json(place / ROW, row)
    for path in place.glob("*.npz") if int(place.name) else ():
        path.unlink()


def gather(
    folder: Path,
    places: Sequence[Path],
    unseen: Unseen,
    judges: Sequence[Judge],
    prompts: list[str],
) -> dict[str, Any]:
    """All rows, and in one file what is shown of each.

    Real pictures come first where it is their captions that were drawn, some of them twice.
    """
    rows = [read_json(place / ROW) for place in places]
    pictures = [read_array(place / SHOWN) for place in places]
    shown = len(pictures[0])
    if unseen.images is not None and prompts[: len(unseen.captions)] == unseen.captions:
        shown = min(shown, len(unseen.captions))  # what is drawn twice is there once
        pictures = [rows[:shown] for rows in pictures]
        real = {"name": "real pictures", "group": "Reference", "note": "unseen"}
        rows.insert(0, real | measure(judges, unseen.images, unseen.captions))
        pictures.insert(0, unseen.images[:shown])
    np.save(folder / PICTURES, np.stack(pictures), allow_pickle=False)
    write_json(folder / "captions.json", prompts[:shown])
    shutil.rmtree(folder / DRAWN)
    return {"rows": rows, "notes": [judge.note for judge in judges]}


def open_unseen(config: ConfigDict, workdir: Path) -> Unseen:
    """Captions of the first validation samples, their real pictures, and the other pictures."""
    samples = config.evaluate.samples
    samples_of = open_samples(config, workdir / "data")
    held, cache = samples_of["validation"], check_unchanged(workdir, samples_of["train"])
    if config.evaluate.get("prompts") and not len(held):  # nothing to compare with
        return Unseen([], None, None, [])
    try:
        return halves(held, samples, side=cache.made["side"])
    except InputError as error:
        raise InputError(f"evaluate.samples={samples}: {error}") from error


def measure(judges: Sequence[Judge], images: np.ndarray, prompts: list[str]) -> dict[str, Any]:
    """What all judges say of pictures of these prompts, as JSON."""
    figures = [dataclasses.asdict(figure) for figure in figures_of(judges, images, prompts)]
    return {"figures": figures, "samples": len(images)}


def contenders(
    config: ConfigDict, workdir: Path, studio: Studio, teacher: Params
) -> Iterator[Contender]:
    """The teacher in full and cut short, and the student after every stage and precision."""
    scale, steps = config.evaluate.guidance_scale, config.student.steps
    pipeline, full = studio.pipeline, config.evaluate.teacher_steps
    sizes = pipeline.transformer_config
    schedule, shift, tokens = pipeline.schedule, pipeline.shift, pipeline.tokens
    placement = Placement(
        np.dtype(DTYPES[studio.compute.dtype]),
        functools.partial(network_shardings, "transformer", mesh=studio.mesh),
    )

    def cut(steps: int) -> Sampler:
        return Sampler(tuple(sampler_sigmas(steps, schedule, tokens).tolist()), scale)

    def student(steps: int) -> Sampler:
        return Sampler(tuple(student_sigmas(steps, shift).tolist()))

    def undistilled() -> Params:
        return teacher

    def merged(folder: str = FOLDER) -> Params:
        return read_transformer(workdir / "export" / folder / "transformer", placement)[0]

    few, half = counted(steps), counted(steps // 2)
    guided = f"guidance {scale}"
    yield Contender(f"teacher, {counted(full)}", "Reference", guided, cut(full), undistilled)
    yield Contender(f"teacher, {few}", few, f"not distilled, {guided}", cut(steps), undistilled)
    for stage in ("guide", "match"):
        read = lambda stage=stage: studio.place(student_of(workdir, stage, studio.mesh))
        yield Contender(f"student after {stage}, {few}", few, "as trained", student(steps), read)
    exported = f"exported, {config.export.dtype}"
    yield Contender(f"student after merge, {few}", few, exported, student(steps), merged)
    for scheme in config.quantize.schemes:
        file = open_gguf(workdir / "quantize" / f"student-{scheme}.gguf")
        read = lambda file=file: transformer_from(file, sizes, "sai", placement)
        note = f"{BITS[scheme]}, GGUF {scheme.upper()}"
        yield Contender(f"student {BITS[scheme]}, {few}", few, note, student(steps), read)
    if steps < 2:
        return
    if schedule.shift_terminal and steps // 2 < 2:
        log.info("the teacher has no grid of %s: no row of it", half)
    else:
        yield Contender(
            f"teacher, {half}", half, f"not distilled, {guided}", cut(steps // 2), undistilled
        )
    if (workdir / "export" / HALVED).is_dir():
        exported, merged = f"{exported}, told of it", functools.partial(merged, HALVED)
    yield Contender(f"student after merge, {half}", half, exported, student(steps // 2), merged)


def counted(steps: int) -> str:
    """A number of steps in words."""
    return f"{steps} step" if steps == 1 else f"{steps} steps"


def describe(contender: Contender) -> dict[str, Any]:
    """The row's words and costs."""
    return {
        "name": contender.name,
        "group": contender.group,
        "note": contender.note,
        "steps": contender.sampler.steps,
        "passes": contender.sampler.passes,
    }


def log_row(row: dict[str, Any]) -> None:
    """One line per sampler as it is measured."""
    figures = told([Figure(**figure) for figure in row["figures"]])
    log.info("%-32s %s  %.4f s/image", row["name"], figures, row["seconds_per_image"])
