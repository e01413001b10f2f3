"""`ablate`: the grid of a config's arms, steps and seeds, trained, judged and told in one table.

Every cell is a workdir of its own below WORKDIR/cells, with links to what it shares with others. A
cell that is done is skipped, one that was killed goes on; the table is written after every cell.
"""

import argparse
import functools
import itertools
import logging
import os
import queue
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import jax
from ml_collections import ConfigDict

from flashjax.parallel import signals
from flashjax.parallel.hosts import keep_programs
from flashjax.parallel.mesh import simulate_devices
from flashjax.stages.match import matching_of
from flashjax.stages.stage import write_json
from flashjax.tools import preflight, sections
from flashjax.tools.ablate import page
from flashjax.tools.ablate.cell import (
    CELLS,
    SHARED,
    check_cells,
    digest_of,
    run_cell,
    share,
    state_of,
)
from flashjax.tools.ablate.grid import AblateConfig, Cell, cells, configured, needs, read_grid
from flashjax.tools.ablate.table import Asked, Brought, brought_by, summary
from flashjax.types import InputError

TABLE, PAGE, COMPILED, LOG = "ablation.json", "ablation.html", "compiled", "log.txt"

log = logging.getLogger(__name__)


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    """Runs what is left of the grid, the most telling cells first; prints the page's path.

    InputError, with a line for each, for cells that ended otherwise than done or broken.
    """
    if min(options.jobs - 1, options.most) < 0:
        raise InputError("give 1 or more --jobs, and 0 or more --most")
    devices = options.devices.split(",") if options.devices else []
    if not all(name.isdecimal() for name in devices):
        raise InputError(f"--devices {options.devices}: give numbers, as 0,1,2,3")
    config = sections.load(options.config, overrides)
    take_devices(options.jobs, devices, config.simulate_devices)
    grid, workdir = checked(config), Path(options.workdir).absolute()
    every = {cell.name: cell for cell in cells(grid)}
    if options.dry_run:
        print("\n".join(every))
        return
    if options.only and options.only not in {*every, SHARED}:
        raise InputError(f"--only {options.only}: --dry_run lists the cells")
    if not options.table and (found := preflight.of_cells(config, kinds_of(config, grid))):
        raise InputError(*found)
    keep_programs(workdir / COMPILED)
    command = shlex.join(["flashjax", "ablate", "--config", options.config, "--workdir", "…"])
    failed: list[str] = []
    check_place(workdir)
    check_cells(config, grid, list(every.values()), workdir)
    asked = functools.cache(functools.partial(digest_of, config, grid))
    if not options.table and options.jobs == 1:
        share(config, workdir)
    elif not options.table:
        share_beside(options, overrides, workdir, devices)
    if options.only == SHARED:
        return
    others = options.others.split(",") if options.others else []
    brought = brought_by(others, list(every.values()), workdir, asked)
    if not options.table:
        left = left_of(grid, list(every.values()), workdir, brought)
        only = every.get(options.only)
        left = with_needs(grid, only, every, workdir) if only else left[: options.most or None]
        if options.jobs == 1:
            done = here(config, grid, workdir, left)
        else:
            done = beside(options, overrides, grid, workdir, left, devices)
        for number, (cell, problem) in enumerate(done, start=1):
            failed += [problem] if problem else []
            log.info("ablate: %s, %d of %d", cell.name, number, len(left))
            if not options.only:
                tell(config, grid, workdir, command, brought, asked)
    if not options.only:
        tell(config, grid, workdir, command, brought, asked)
        print(workdir / PAGE)
    if failed:
        raise InputError(*failed)


def take_devices(jobs: int, devices: Sequence[str], simulated: int) -> None:
    """Says what this process may see, before anything looks at a device.

    Of several jobs each has a process and a device of its own, and this one takes none from them.
    """
    if jobs > 1:
        jax.config.update("jax_platforms", "cpu")
    elif devices:
        os.environ |= alone_on(devices[0])
    simulate_devices(simulated)


def checked(config: ConfigDict) -> AblateConfig:
    """The grid of a config. InputError for arms that are none, and for what no cell asks."""
    sections.check(config, "ablate")
    grid = read_grid(config)
    if config.evaluate.get("prompts"):
        raise InputError("evaluate.prompts: cells draw held-out captions, leave it empty")
    if not config.evaluate.judges:
        raise InputError("evaluate.judges is empty: cells are told apart by judges alone")
    arms = {(cell.arm, cell.steps): cell for cell in cells(grid) if cell.arm}
    for (name, _), cell in arms.items():
        asked = configured(config, grid, cell)
        try:
            sections.check(asked, "match")
            matching_of(asked, "match")
        except InputError as error:
            raise InputError(*(f"ablate.arms.{name}: {line}" for line in error.args)) from error
    return grid


def kinds_of(config: ConfigDict, grid: AblateConfig) -> dict[str, tuple[ConfigDict, str]]:
    """The config and the last stage of one cell of each arm or split, and number of steps."""
    first = [cell for cell in cells(grid) if cell.arm and cell.seed == grid.seeds[0]]
    every = {(cell.arm, cell.steps, cell.split): cell for cell in reversed(first)}
    return {
        cell.name: (configured(config, grid, cell), "split" if cell.split else "match")
        for cell in reversed(every.values())
    }


def check_place(workdir: Path) -> None:
    """InputError for a table or a page in a folder that is no ablation's: they are not ours."""
    for path in (workdir / TABLE, workdir / PAGE):
        if os.path.lexists(path) and not (workdir / SHARED).is_dir():
            raise InputError(f"{path} is there, and no ablation is: use another --workdir")


def left_of(
    grid: AblateConfig, every: Sequence[Cell], workdir: Path, brought: Brought
) -> list[Cell]:
    """The cells that are not done: of those that others ran only what a cell here goes on from."""
    here = [cell for cell in every if not state_of(cell, workdir)]
    asked = {cell.name for cell in here if cell.name not in brought}
    for cell in reversed(here):  # what a cell needs comes before it
        asked |= needs(grid, cell) if cell.name in asked else set()
    return [cell for cell in here if cell.name in asked]


def with_needs(
    grid: AblateConfig, cell: Cell, every: Mapping[str, Cell], workdir: Path
) -> list[Cell]:
    """A cell, and before it what it goes on from and is not there yet."""
    asked = {cell.name}
    for other in reversed([*every.values()]):  # what a cell needs comes before it
        asked |= needs(grid, other) if other.name in asked else set()
    found = [every[name] for name in every if name in asked - {cell.name}]
    return [*(other for other in found if not state_of(other, workdir)), cell]


def tell(
    config: ConfigDict,
    grid: AblateConfig,
    workdir: Path,
    command: str,
    brought: Brought,
    asked: Asked,
) -> None:
    """Writes the table and the page of what is done so far."""
    told = summary(grid, workdir, command, brought, asked)
    write_json(workdir / TABLE, told)
    page.write(workdir / PAGE, grid, workdir, told, config.report.title, brought)


def here(
    config: ConfigDict, grid: AblateConfig, workdir: Path, left: Sequence[Cell]
) -> Iterator[tuple[Cell, str]]:
    """Cells one after the other in this process."""
    for cell in left:
        run_cell(config, grid, cell, workdir)
        jax.clear_caches()  # programs of hundreds of cells do not fit in memory
        yield cell, ""


def beside(
    options: argparse.Namespace,
    overrides: Sequence[str],
    grid: AblateConfig,
    workdir: Path,
    left: Sequence[Cell],
    devices: Sequence[str],
) -> Iterator[tuple[Cell, str]]:
    """Cells in processes of their own, so many at a time; those that others build on come first."""
    running: list[subprocess.Popen[bytes]] = []
    free: queue.SimpleQueue[str] = queue.SimpleQueue()  # of every job the device that it takes
    for name in itertools.islice(itertools.cycle(devices or [""]), options.jobs):
        free.put(name)

    def stop(code: int) -> None:
        for process in running:
            process.terminate()

    signals.before_end(stop)

    def work(cell: Cell) -> tuple[Cell, str]:
        device, path = free.get(), workdir / CELLS / cell.name / LOG
        process = begun(options, overrides, cell.name, path, device)
        running.append(process)
        code = process.wait()
        free.put(device)
        return cell, f"{cell.name} ended with code {code}: {path} says why" if code else ""

    with ThreadPoolExecutor(options.jobs) as pool:
        for wave in waves(grid, left):
            yield from _finished(pool, work, wave)


def share_beside(
    options: argparse.Namespace, overrides: Sequence[str], workdir: Path, devices: Sequence[str]
) -> None:
    """What cells share, in a process of its own. InputError where it ends otherwise than done."""
    path = workdir / SHARED / LOG
    log.info("ablate: what cells share comes first: %s says how far it is", path)
    process = begun(options, overrides, SHARED, path, devices[0] if devices else "")
    signals.before_end(lambda code: process.terminate())
    if code := process.wait():
        raise InputError(f"what cells share ended with code {code}: {path} says why")


def begun(
    options: argparse.Namespace, overrides: Sequence[str], only: str, path: Path, device: str
) -> "subprocess.Popen[bytes]":
    """A process for one cell, or what cells share, that logs to `path` and may see one device."""
    words = [sys.executable, "-m", "flashjax", "ablate", "--config", options.config]
    words += ["--workdir", options.workdir, *(f"--config.{text}" for text in overrides)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as told:
        return subprocess.Popen(
            [*words, "--only", only],
            stdout=told,
            stderr=told,
            env=os.environ | (alone_on(device) if device else {}),
        )


def alone_on(device: str) -> dict[str, str]:
    """The environment of a process that sees one of a machine's GPUs, or TPU chips, alone."""
    one = "1,1,1"
    chip = {"TPU_VISIBLE_CHIPS": device, "TPU_CHIPS_PER_PROCESS_BOUNDS": one}
    return {"CUDA_VISIBLE_DEVICES": device, "TPU_PROCESS_BOUNDS": one} | chip


def _finished(
    pool: ThreadPoolExecutor, work: Callable[[Cell], tuple[Cell, str]], wave: Sequence[Cell]
) -> Iterator[tuple[Cell, str]]:
    for future in as_completed([pool.submit(work, cell) for cell in wave]):
        yield future.result()


def waves(grid: AblateConfig, left: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Cells in their order, in parts of which none waits for another of the same part."""
    wave: list[Cell] = []
    for cell in left:
        if needs(grid, cell) & {other.name for other in wave}:
            yield wave
            wave = []
        wave.append(cell)
    if wave:
        yield wave
