"""`status`: how far a run is, from another shell: stages, steps, pace, saves, hosts."""

import argparse
import datetime
import json
import time
from pathlib import Path
from typing import Any

from flashjax.stages.stage import read_stage, stage_folders, steps_saved
from flashjax.stages.training import curves
from flashjax.train.progress import in_words as in_words_of

SILENT_SECONDS = 60.0  # after which a process' last sign of life is said


def run(options: argparse.Namespace) -> None:
    """Prints a line for each stage, and for each process that is silent."""
    workdir = Path(options.workdir)
    folders = sorted(stage_folders(workdir), key=_began)
    found = [of_stage(folder) | {"stage": named(folder, workdir)} for folder in folders]
    if options.json:
        print(json.dumps(found, indent=2))
        return
    width = max(12, *(len(told["stage"]) for told in found))
    for told in found:
        print(in_words(told, width))


def named(folder: Path, workdir: Path) -> str:
    """A stage as it is called below a workdir: an ablation has one of a name in every cell."""
    return folder.name if folder == workdir else folder.relative_to(workdir).as_posix()


def _began(folder: Path) -> float:
    record = read_stage(folder) or {}
    return (folder / "stage.json").stat().st_mtime - record["seconds"]


def of_stage(folder: Path) -> dict[str, Any]:
    """What is known of a stage; of a job its steps, seconds of each and seconds that are left."""
    record = read_stage(folder) or {}
    told = {key: record[key] for key in ("status", "seconds")}
    told |= {"ended": record["ended"]} if "ended" in record else {}
    job = record["section"].get("job")
    if job is None:
        return told
    notes = sorted((folder / "hosts").glob("heartbeat-*.json"))
    signs = [sign for path in notes if (sign := _sign(path))]
    step = min((sign["step"] for sign in signs), default=0)
    records = [line for line in curves(folder) if "time/step_seconds" in line]
    pace = [line["time/step_seconds"] for line in records]
    told |= {"step": step, "steps": job["steps"], "saved": max(steps_saved(folder), default=0)}
    told["figures"] = {k: v for line in records[-1:] for k, v in line.items() if _is_figure(k)}
    if pace:
        told |= {"step_seconds": pace[-1], "left_seconds": pace[-1] * (job["steps"] - step)}
    if record["status"] != "done":
        told["silent"] = {s["process"]: s["silent_seconds"] for s in signs if _is_silent(s)}
    return told


def in_words(told: dict[str, Any], width: int) -> str:
    """One line of a stage, whose name takes so many columns."""
    parts = [f"{told['stage']:{width}} {told['status']:8} {_span(told['seconds']):>8}"]
    if "steps" in told:
        parts.append(f"step {told['step']} of {told['steps']}, saved {told['saved']}")
    if "step_seconds" in told:
        parts.append(f"{told['step_seconds']:.3g} s/step")
    if told["status"] != "done" and "left_seconds" in told:
        parts.append(f"{_span(told['left_seconds'])} left")
    if figures := in_words_of(told.get("figures", {})).strip():
        parts.append(figures)
    parts += [
        f"process {number} silent for {_span(seconds)}"
        for number, seconds in told.get("silent", {}).items()
    ]
    return "  ".join(parts + ([told["ended"]] if "ended" in told else []))


def _sign(path: Path) -> dict[str, Any] | None:
    """A process' last sign of life; None where its host lost it, or it is just taken away."""
    number = int(path.stem.removeprefix("heartbeat-"))
    try:
        found = json.loads(path.read_text())
        silent = time.time() - found["time"]
        return {"process": number, "silent_seconds": silent, "step": found["step"]}
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        return None


def _is_figure(name: str) -> bool:
    """Whether a metric is said: losses, rates, speed, memory, goodput."""
    return not name.startswith(("time/", "goodput/")) or name == "time/goodput"


def _is_silent(sign: dict[str, Any]) -> bool:
    return sign["silent_seconds"] > SILENT_SECONDS


def _span(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
