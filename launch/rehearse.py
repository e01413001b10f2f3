#!/usr/bin/env python3
"""The dress rehearsal: what a team does first on a pod, here, with a small teacher.

    launch/rehearse.py --workdir build/rehearsal

Writes a teacher in SD3.5-Medium's layout, photographs and prompts. Runs the recipe itself in two
processes, shrunk by overrides alone, from `import` to `report`; kills all of it in the middle of
`match`, and starts it again with the same command. Says of each thing that must hold whether it
does; the exit code is 0 if all hold. `--small` is the same with less of everything.
"""

import argparse
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import flashjax
from flashjax.launch.rehearsal import checks, data
from flashjax.launch.rehearsal.teacher import Narrow, write_teacher

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "sd35_medium_4step.py"
JOBS = ("guide", "match", "split")
# Nearly all of the time goes into compiling; the programs are as true without XLA's last passes.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
QUICK += " --xla_cpu_use_fusion_emitters=false"
MARK = "launch/rehearse.py makes this folder anew each time\n"
OURS = "rehearsal"  # a file that says that a folder is a rehearsal's


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a rehearsal is: the teacher, `pictures` of `side` pixels, steps of training."""

    teacher: Narrow
    side: int
    buckets: int  # that there must be
    pictures: int
    steps: int
    batch: int
    substeps: int
    drawn: int
    processes: int = 2  # or one of two devices, whose programs are kept from one start to the next


FULL = Size(
    Narrow(depth=6, dual=3),
    **dict(side=192, buckets=2, pictures=190, steps=4, batch=2, substeps=2, drawn=4),
)
SMALL = Size(
    Narrow(depth=4, dual=2, heads=1, position_size=48, channels=(8, 8, 8, 8), groups=2),
    **dict(side=64, buckets=1, pictures=20, steps=2, batch=4, substeps=1, drawn=2, processes=1),
)


def overrides(size: Size, data_folder: Path) -> dict[str, object]:
    """What is changed of the recipe: where things are, and how much is done."""
    changed: dict[str, object] = {
        "data.source": data_folder / "my pictures",
        "data.size": size.side,
        "data.smallest": size.batch,
        "data.validation": 2 * size.drawn,
        "match.heads.taps": ",".join(map(str, size.teacher.taps)),
        "match.heads.width": 32,
        "match.critic_updates": 2,
        "match.match.trajectory_substeps": size.substeps,
        "guide.guide.substeps": size.substeps,
        "evaluate.prompts": data_folder / "prompts.txt",
        "evaluate.samples": size.drawn,
        "evaluate.chunk": size.drawn,
        "evaluate.shown": 2,
        "evaluate.teacher_steps": 6,
        "simulate_devices": 2 // size.processes,
    }
    for job in JOBS:
        changed |= {f"{job}.job.steps": size.steps, f"{job}.job.batch_size": size.batch}
        changed |= {f"{job}.job.log_steps": 1, f"{job}.job.checkpoint_steps": 1}
    return changed


def command(
    workdir: Path, changed: Mapping[str, object], verbs: str, *, processes: int
) -> list[str]:
    """The launch of some verbs in one or more processes."""
    flags = [sys.executable, str(ROOT / "launch" / "launch.py"), "local"]
    flags += ["--processes", str(processes)]
    flags += ["--config", str(RECIPE), "--workdir", str(workdir), "--verbs", verbs]
    return flags + [word for key, value in changed.items() for word in ("--set", f"{key}={value}")]


def run(words: list[str], log: Path, *, kill_when: Callable[[], bool] | None = None) -> int:
    """Runs a command, its words in a log, and kills it with all its processes when told to."""
    print(f"  {log.name[:-4]}: log in {log}", flush=True)
    with log.open("wb") as file:
        job = subprocess.Popen(
            words, stdout=file, stderr=file, start_new_session=True, env=environment(log.parent)
        )
        try:
            while job.poll() is None and not (kill_when and kill_when()):
                time.sleep(0.05)
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
        return job.wait()


def environment(workdir: Path) -> dict[str, str]:
    """Where `flashjax` is this package; what was compiled before the kill is there after it."""
    paths = {"PYTHONPATH": Path(flashjax.__file__).parents[1], "PATH": Path(sys.executable).parent}
    found = {
        name: os.pathsep.join(filter(None, [str(path), os.environ.get(name)]))
        for name, path in paths.items()
    }
    defaults = {
        "JAX_COMPILATION_CACHE_DIR": str(workdir / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
        "XLA_FLAGS": QUICK,
    }
    return defaults | os.environ | found


def rehearse(workdir: Path, size: Size) -> list[tuple[str, Callable[[], str]]]:
    """Does it all; returns what is to be checked, by name."""
    teacher, own = workdir / "teacher", workdir / "data"
    folder, single = write_teacher(teacher, data.words(), size.teacher)
    pictures = data.write_pictures(own / "my pictures", size.pictures, size.side)
    prompts = data.write_prompts(own / "prompts.txt")
    changed = overrides(size, own)
    as_single = changed | {"teacher.source": single, "teacher.base": folder}
    changed["teacher.source"] = folder

    twin, work = workdir / "of_single_file", workdir / "run"
    first, again = workdir / "first.log", workdir / "again.log"
    launched = partial(command, processes=size.processes)
    codes = {"single": run(launched(twin, as_single, "import"), workdir / "single.log")}
    everything = launched(work, changed, "run")
    codes["first"] = run(everything, first, kill_when=partial(is_begun, work / "match"))
    codes["again"] = run(everything, again)

    drawn = work / "export" / "diffusers"
    gguf = work / "quantize" / "student-q6_k.gguf"
    return [
        ("jobs end as they should", partial(codes_are_right, codes)),
        ("both layouts are one model", partial(checks.both_layouts_are_one_model, work, twin)),
        ("the kill cost one step", lambda: checks.training_went_on(again.read_text())),
        ("all stages are done", partial(checks.stages_are_done, work)),
        ("dirt is listed", partial(checks.dirt_is_listed, work, pictures)),
        ("shapes of pictures", partial(checks.buckets_are_several, work, size.buckets)),
        ("prompts are clean", partial(checks.prompts_are_clean, own / "prompts.txt", prompts)),
        ("the report is whole", partial(checks.report_has_every_row, work, prompts)),
        ("diffusers draws the export", partial(checks.diffusers_draws, drawn, size.side)),
        ("gguf opens the 6-bit file", partial(checks.gguf_opens, gguf, work)),
    ]


def is_begun(stage: Path) -> bool:
    """Whether a job has a checkpoint, and is not at its end."""
    return any(path.name.isdigit() for path in stage.glob("checkpoints/*"))


def clear(workdir: Path) -> bool:
    """Makes the folder empty but for a mark; False for one that holds what is not ours."""
    if workdir.exists() and any(workdir.iterdir()):
        mark = workdir / OURS
        if not mark.is_file() or mark.read_text() != MARK:
            return False
        shutil.rmtree(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / OURS).write_text(MARK)
    return True


def codes_are_right(codes: Mapping[str, int]) -> str:
    wanted = {"single": 0, "first": -signal.SIGKILL, "again": 0}
    assert codes == wanted, f"exit codes {codes}, wanted {wanted}"
    return f"exit codes {codes}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=ROOT / "build" / "rehearsal")
    parser.add_argument("--small", action="store_true", help="of a few pictures, blocks and steps")
    options = parser.parse_args()
    started, failed = time.monotonic(), 0
    if not clear(options.workdir):
        print(f"--workdir {options.workdir} holds something else: choose another", file=sys.stderr)
        return 2
    for name, check in rehearse(options.workdir, SMALL if options.small else FULL):
        try:
            print(f"ok      {name}: {check()}")
        except Exception as error:
            failed += 1
            print(f"FAILED  {name}: {type(error).__name__}: {error}")
    print(f"{failed} failed, {time.monotonic() - started:.0f} s")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
