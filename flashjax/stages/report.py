"""`report`: what a run came to, as one HTML file."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.data.jsons import read_array, read_texts
from flashjax.evaluate import report
from flashjax.evaluate.bars import Targets, run_bars
from flashjax.evaluate.judge import Figure, Measured
from flashjax.sources import name_of
from flashjax.stages.evaluate import BITS, counted
from flashjax.stages.export import DTYPES, FOLDER, SINGLE
from flashjax.stages.split import folders_of
from flashjax.stages.stage import read_stage, run_stage, stage_results
from flashjax.stages.training import curves

STAGES = (
    "import",
    "prepare",
    "guide",
    "match",
    "split",
    "merge",
    "export",
    "quantize",
    "evaluate",
)


def section_of(config: ConfigDict) -> dict[str, Any]:
    """All of a config that the stage depends on."""
    return config.report.to_dict()


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Writes report/report.html from what the stages left behind."""

    def body(folder: Path) -> dict[str, Any]:
        path = folder / "report.html"
        content = collect(config, workdir)
        report.write_report(path, content)
        return {"report": path.name, "bars": {bar.name: bar.met for bar in content.bars}}

    return run_stage(
        "report",
        section_of(config),
        workdir,
        body,
        inputs={
            name: workdir / name
            for name in ("evaluate", "export", "quantize", *branches_of(config, workdir).values())
        },
        seed=config.seed,
        alone=True,
    )


def collect(config: ConfigDict, workdir: Path) -> report.Report:
    """The whole content, read from the workdir."""
    evaluated = stage_results(workdir / "evaluate")
    rows = evaluated["rows"]
    pictures = read_array(workdir / "evaluate" / "pictures.npy")
    samplers = [sampler_of(row, images) for row, images in zip(rows, pictures, strict=True)]
    measured = {sampler.name: sampler.measured for sampler in samplers}
    steps, full = config.student.steps, config.evaluate.teacher_steps
    reference, student = f"teacher, {counted(full)}", f"student after merge, {counted(steps)}"
    records = {name: read_stage(workdir / name) for name in stages_of(config, workdir)}
    versions = (records["evaluate"] or {})["versions"]
    bits = 8 * np.dtype(DTYPES[config.export.dtype]).itemsize
    guided = " with guidance" if config.evaluate.guidance_scale != 1 else ""
    return report.Report(
        title=config.report.title or title_of(config),
        summary=(
            f"{source_of(config)}, a {full}-step teacher{guided}, distilled into a {steps}-step "
            f"student{' without it' if guided else ''}, merged, exported and quantised. Every row "
            f"below draws the same captions from the same noise."
        ),
        bars=run_bars(
            configs.section(config, "report.bars", Targets),
            teacher=measured[reference],
            cut=measured[f"teacher, {counted(steps)}"],
            student=measured[student],
            fewest=measured[fewest_bits(config)],
            bits=(bits, BITS[config.quantize.schemes[-1]].removesuffix("-bit")),
        ),
        captions=read_texts(workdir / "evaluate" / "captions.json"),
        samplers=samplers,
        reference=reference,
        notes=evaluated["notes"],
        curves=[
            report.Curves("guide", {"": curves(workdir / "guide")}),
            report.Curves("match", {"": curves(workdir / "match")}),
            report.Curves("split", branch_curves(workdir, branches_of(config, workdir))),
        ],
        files=file_sizes(workdir, bits=bits),
        stage_seconds={name: record["seconds"] for name, record in records.items() if record},
        config=configs.to_json(config),
        versions=versions,
        seed=config.evaluate.seed,
        hardware=f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}",
    )


def title_of(config: ConfigDict) -> str:
    """What a run is called whose config gives it no title."""
    return f"{source_of(config)} in {counted(config.student.steps)}"


def source_of(config: ConfigDict) -> str:
    """The teacher's name: its folder's or file's."""
    return name_of(Path(str(config.teacher.source))) or str(config.teacher.source)


def sampler_of(row: dict[str, Any], images: np.ndarray) -> report.Sampler:
    """A row of the evaluation as the report shows it."""
    measured = Measured(
        figures=tuple(Figure(**figure) for figure in row["figures"]),
        samples=row["samples"],
        steps=row.get("steps"),
        passes=row.get("passes"),
        seconds_per_image=row.get("seconds_per_image"),
    )
    return report.Sampler(row["name"], row["note"], row["group"], images, measured)


def fewest_bits(config: ConfigDict) -> str:
    """The row of the student's last file, the smallest."""
    return f"student {BITS[config.quantize.schemes[-1]]}, {counted(config.student.steps)}"


def branches_of(config: ConfigDict, workdir: Path) -> dict[str, str]:
    """The folder of every branch."""
    return folders_of(config.split.branches, workdir)


def stages_of(config: ConfigDict, workdir: Path) -> list[str]:
    """All stages of a run in their order, a branch's own job as one of them."""
    trained = list(dict.fromkeys(branches_of(config, workdir).values()))
    return [name for stage in STAGES for name in (trained if stage == "split" else [stage])]


def branch_curves(workdir: Path, folders: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """The branches' metrics apart: "lo/student/loss" of one run becomes "student/loss" of `lo`.

    `folders` has that of every branch.
    """

    def of(branch: str, record: dict[str, Any]) -> dict[str, Any]:
        own = {k.removeprefix(branch): v for k, v in record.items() if k.startswith(branch)}
        return {"step": record["step"], **own}

    return {
        branch: [of(f"{branch}/", record) for record in curves(workdir / name) if "step" in record]
        for branch, name in folders.items()
    }


def file_sizes(workdir: Path, *, bits: int) -> list[report.FileSize]:
    """The transformer as it was exported first, then its quantised files and the single file."""
    exported = stage_results(workdir / "export")
    quantized = stage_results(workdir / "quantize")
    shards = [size for name, size in exported.items() if name.startswith(f"{FOLDER}/transformer/")]
    return [
        report.FileSize(f"transformer, {bits}-bit safetensors", sum(shards)),
        *(
            report.FileSize(f"transformer, GGUF {scheme.upper()}", entry["bytes"])
            for scheme, entry in quantized.items()
        ),
        report.FileSize("single file with autoencoder", exported[SINGLE]),
    ]
