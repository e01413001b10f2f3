"""One cell of an ablation: its stages in a workdir of its own, with links to what others share."""

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.evaluate.judge import Compared, Judge
from flashjax.evaluate.sample import Sampler
from flashjax.evaluate.unseen import Unseen
from flashjax.flow.schedule import sampler_sigmas, student_sigmas
from flashjax.parallel.mesh import make_mesh
from flashjax.stages import guide, import_teacher, match, prepare, split
from flashjax.stages.drawing import Studio, draw_all, forget, make_studio
from flashjax.stages.evaluate import inputs_of, measure, open_all, open_unseen
from flashjax.stages.identity import identity
from flashjax.stages.model import open_model, student_of
from flashjax.stages.stage import (
    check_identity,
    run_stage,
    stage_results,
    write_config,
    write_json,
)
from flashjax.tools.ablate.grid import AblateConfig, Cell, configured, needs, trained_by
from flashjax.train.merge import merge
from flashjax.types import InputError, Params

CELLS, SHARED, JUDGED, BROKEN, SHOWN = "cells", "shared", "judged", "broken.json", "shown.npy"
TEACHER, STUDENT, HALVED = "teacher", "student", "halved"
FIRST = ("import", "prepare", "data")  # what all cells share

log = logging.getLogger(__name__)


def share(config: ConfigDict, workdir: Path) -> None:
    """Imports the teacher and prepares the data, once for all cells; judges the teacher."""
    place = workdir / SHARED
    import_teacher.run(config, place)
    prepare.run(config, place)
    (place / "data").mkdir(exist_ok=True)  # data of one's own lies elsewhere; judges cache here
    judge_teacher(config, place)


def run_cell(config: ConfigDict, grid: AblateConfig, cell: Cell, workdir: Path) -> None:
    """Trains and judges what is not done yet. Training that breaks is a result, and is noted."""
    place = workdir / CELLS / cell.name
    for name in sorted(needs(grid, cell)):
        if (workdir / CELLS / name / BROKEN).is_file():
            place.mkdir(parents=True, exist_ok=True)
            write_json(place / BROKEN, {"error": f"it goes on from {name}, which broke"})
            return
    asked = configured(config, grid, cell)
    write_config(place, asked)  # so that other verbs work on the cell's folder
    for name in FIRST:
        link(place / name, workdir / SHARED / name)
    try:
        if not cell.arm:
            guide.run(asked, place)
            judge_student(asked, grid, place, "guide")
            return
        link(place / "guide", workdir / CELLS / Cell(cell.steps).name / "guide")
        if not cell.split:
            match.run(asked, place)
            judge_student(asked, grid, place, "match")
            return
        link(place / "match", workdir / CELLS / cell.matched / "match")
        if (owner := trained_by(grid, cell)) == cell:
            train_branches(asked, place)
        else:
            for name in grid.splits[cell.split].branches:
                folder = split.folder_of(name)
                link(place / folder, workdir / CELLS / owner.name / folder)
        judge_branches(asked, grid, cell, place)
    except FloatingPointError as error:
        log.warning("%s broke: %s", cell.name, error)
        write_json(place / BROKEN, {"error": str(error)})


def train_branches(config: ConfigDict, place: Path) -> None:
    """Trains the branches one after the other, as jobs of their own: one device is enough."""
    for name in config.split.branches:
        split.run(branch_alone(config, name), place)


def branch_alone(config: ConfigDict, name: str) -> ConfigDict:
    """The config of the job of one branch."""
    alone = ConfigDict(config.to_dict())
    alone.split.only = name
    return alone


def sections_of(config: ConfigDict, grid: AblateConfig, cell: Cell) -> dict[str, dict[str, Any]]:
    """What a cell is asked for, by the name of the stage: its own stages, and those before."""
    asked = configured(config, grid, cell)
    found = {"guide": guide.section_of(asked)}
    found |= {"match": match.section_of(asked)} if cell.arm else {}
    for name in grid.splits[cell.split].branches if cell.split else ():
        found[split.folder_of(name)] = split.section_of(branch_alone(asked, name))
    found[JUDGED] = asked_of_branches(asked, grid, cell) if cell.split else asked_of(asked)
    return {name: configs.to_dict(section) for name, section in found.items()}


def digest_of(config: ConfigDict, grid: AblateConfig, cell: Cell) -> str:
    """What tells the results of a cell from those of another config's, on any machine."""
    sections = sections_of(config, grid, cell)
    judges = sections[JUDGED]["judges"]
    sections[JUDGED]["judges"] = [told.partition("=")[0] for told in judges]  # no paths
    sections["prepare"] = configs.to_dict(prepare.section_of(config)) | {"source": ""}
    return configs.digest({name: identity(section) for name, section in sections.items()})


def check_cells(
    config: ConfigDict, grid: AblateConfig, every: Sequence[Cell], workdir: Path
) -> None:
    """InputError for what is there of another config's cells: they would be told as this one's."""
    shared = {
        "import": import_teacher.section_of(config),
        "prepare": prepare.section_of(config),
        JUDGED: asked_of(config),
    }
    for name, section in shared.items():
        check_identity(workdir / SHARED / name, section, config.seed, rates=True)
    for cell in every:
        place = workdir / CELLS / cell.name
        if not place.is_dir():
            continue
        for name, section in sections_of(config, grid, cell).items():
            if not (place / name).is_symlink():  # or it is looked at where it is
                check_identity(place / name, section, cell.seed, rates=True)


def state_of(cell: Cell, workdir: Path) -> str:
    """Whether a cell is "done", "broken" or neither yet: ""."""
    place = workdir / CELLS / cell.name
    if (place / BROKEN).is_file():
        return "broken"
    return "done" if finished(place) else ""


def finished(place: Path) -> bool:
    """Whether what a workdir came to is judged."""
    try:
        return bool(stage_results(place / JUDGED))
    except InputError:
        return False


def link(path: Path, target: Path) -> None:
    """A link to another cell's folder. InputError where that is missing, or something is there."""
    if not target.is_dir():
        raise InputError(f"{path} needs {target}, which is not there: run that cell first")
    if path.is_symlink() and path.resolve() == target.resolve():
        return
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} is no link to {target}: use another --workdir")
    path.symlink_to(target.resolve(), target_is_directory=True)


def judge_teacher(config: ConfigDict, place: Path) -> None:
    """What the teacher in full comes to, and real pictures."""
    steps, scale = config.evaluate.teacher_steps, config.evaluate.guidance_scale

    def body(folder: Path) -> dict[str, Any]:
        desk = Desk(config, place, folder)
        pipeline = desk.pipeline
        grid = sampler_sigmas(steps, pipeline.schedule, desk.studio.pipeline.tokens)
        teacher = desk.studio.place(pipeline.transformer, role="teacher")
        found = desk.judge(teacher, Sampler(tuple(grid.tolist()), scale), desk.captions)
        images, captions = desk.unseen.images, desk.unseen.captions
        real = None if images is None else measure(desk.judges, images, captions)
        return {"teacher": found, "real": real, "notes": [judge.note for judge in desk.judges]}

    inputs = {"prepare": place / "prepare"} | inputs_of(config)
    run_stage(JUDGED, asked_of(config), place, body, inputs=inputs, seed=config.seed)


def judge_student(config: ConfigDict, grid: AblateConfig, place: Path, stage: str) -> None:
    """What the student of a stage comes to, and in half as many steps if it has learnt them."""

    def body(folder: Path) -> dict[str, Any]:
        desk = Desk(config, place, folder, shown=grid.shown)

        def judged(*, halved: bool) -> dict[str, Any]:
            student = desk.studio.place(student_of(place, stage, desk.mesh, halved=halved))
            return desk.judge(student, desk.sampler(config, stride=1 + halved), desk.captions)

        found = {HALVED: judged(halved=True)} if config.match.match.halved else {}
        return found | {STUDENT: judged(halved=False)}  # the last one's pictures are kept

    inputs = {stage: place / stage} | inputs_of(config)
    run_stage(JUDGED, asked_of(config), place, body, inputs=inputs, seed=config.seed)


def judge_branches(config: ConfigDict, grid: AblateConfig, cell: Cell, place: Path) -> None:
    """What branches come to: merged, by weights that other captions chose, or kept apart."""
    arm = grid.splits[cell.split]
    names = list(arm.branches)
    stages = {name: split.folder_of(name) for name in names}

    def body(folder: Path) -> dict[str, Any]:
        desk = Desk(config, place, folder, shown=grid.shown)
        branches = [
            student_of(place, f"{stage}/{name}", desk.mesh) for name, stage in stages.items()
        ]
        if not arm.weights:
            bounds, order = experts(config, arm.branches, desk.studio.pipeline.shift)
            sampler = desk.sampler(config, experts=bounds)
            pair = tuple(desk.studio.place(branches[index]) for index in order)
            return {STUDENT: desk.judge(pair, sampler, desk.captions)}
        sampler, tuned = desk.sampler(config), desk.other_captions(grid.tuned)
        swept = []
        for weights in arm.weights if len(arm.weights) > 1 else ():
            merged = desk.studio.place(merge(branches, [weights[name] for name in names]))
            swept.append({"weights": weights} | desk.judge(merged, sampler, tuned))
        best = max(swept, key=first_figure)["weights"] if swept else arm.weights[0]
        merged = desk.studio.place(merge(branches, [best[name] for name in names]))
        judged = desk.judge(merged, sampler, desk.captions)
        return {STUDENT: judged, "weights": best, "swept": swept}

    asked = asked_of_branches(config, grid, cell)
    inputs = {stage: place / stage for stage in stages.values()} | inputs_of(config)
    run_stage(JUDGED, asked, place, body, inputs=inputs, seed=config.seed)


def first_figure(row: dict[str, Any]) -> float:
    """The figure that weights are chosen by."""
    first = row["figures"][0]
    return first["value"] if first["better"] == "more" else -first["value"]


def experts(
    config: ConfigDict, branches: dict[str, tuple[float, float]], shift: float
) -> tuple[tuple[float, ...], list[int]]:
    """The noise levels between branches, decreasing, and their numbers from noise to picture."""
    sigmas = student_sigmas(config.student.steps, shift)
    owned = split.branch_steps(config, branches, shift)
    order = sorted(range(len(owned)), key=lambda index: owned[index])
    return tuple(float(sigmas[owned[index][0]]) for index in order[1:]), order


def asked_of(config: ConfigDict) -> dict[str, Any]:
    """What figures depend on beside the student."""
    return {**config.evaluate, "steps": config.student.steps}


def asked_of_branches(config: ConfigDict, grid: AblateConfig, cell: Cell) -> dict[str, Any]:
    """The same of branches, whose weights may be chosen on captions of their own."""
    weights = list(grid.splits[cell.split].weights)
    return asked_of(config) | {"tuned": grid.tuned, "weights": weights}


class Desk:
    """Where pictures of a cell are drawn and judged."""

    def __init__(self, config: ConfigDict, place: Path, folder: Path, *, shown: int = 0) -> None:
        self._config, self._place, self._folder, self._shown = config, place, folder, shown
        self._drawn = folder / "drawn"
        for chunk in self._drawn.glob("*.npz"):  # of a job that was killed: of which weights?
            chunk.unlink()
        self.mesh: Mesh = make_mesh({"data": 1})
        self.pipeline, self._tokenizer = open_model(place, self.mesh)
        self.studio: Studio = make_studio(config, self.mesh, self.pipeline, self._tokenizer([""]))
        self.unseen: Unseen = open_unseen(config, place)
        twice = config.evaluate.get("twice", 0)
        self.captions = self.unseen.captions + self.unseen.captions[:twice]
        compared = Compared(self.unseen.others, None, place / "data" / "features")
        self.judges: list[Judge] = open_all(config, compared, self.captions)

    @functools.cached_property
    def _program(self) -> Callable[[Sampler], Any]:
        return functools.cache(self.studio.program)  # one compilation for all weights

    def sampler(
        self, config: ConfigDict, *, stride: int = 1, experts: tuple[float, ...] = ()
    ) -> Sampler:
        """The student's grid, or every other level of it."""
        sigmas = student_sigmas(config.student.steps // stride, self.studio.pipeline.shift)
        return Sampler(tuple(sigmas.tolist()), experts=experts)

    def other_captions(self, count: int) -> list[str]:
        """Captions that were held out, and of which nothing is reported."""
        return self.unseen.more[:count]

    def judge(self, params: Params, sampler: Sampler, captions: Sequence[str]) -> dict[str, Any]:
        """The figures of pictures of these captions; the first pictures are kept."""
        draw = functools.partial(self._program(sampler), params)
        asked = {"seed": self._config.evaluate.seed, "chunk": self._config.evaluate.chunk}
        drawn = draw_all(self.studio, draw, self._tokenizer(list(captions)), self._drawn, **asked)
        assert drawn is not None  # one process alone
        forget(self._drawn)
        if self._shown and captions == self.captions:
            np.save(self._folder / SHOWN, drawn.images[: self._shown], allow_pickle=False)
        return measure(self.judges, drawn.images, list(captions))
