"""What a student's step costs a chip, by machine and size: python docs/figures/scaling.py

Operations and bytes held are the plan's own, from shapes; bytes received are those of the weights,
in every pass that gathers them. Nothing is compiled: the crosses are plans that were.
"""

import functools
import math
from pathlib import Path
from typing import Any

import jax
import matplotlib
import matplotlib.pyplot as plt

from flashjax import config as configs
from flashjax import trees
from flashjax.parallel.chips import CHIPS
from flashjax.parallel.mesh import simulate_devices
from flashjax.tools.plan.programs import compute_of, device_bytes, programs
from flashjax.tools.plan.report import executed
from flashjax.types import Params

matplotlib.rcParams.update({"svg.hashsalt": "flashjax", "font.size": 8, "axes.spines.top": False})
matplotlib.rcParams["axes.spines.right"] = False

HERE = Path(__file__).parent
RECIPE = str(HERE.parents[1] / "configs" / "sd35_medium_v6e_64.py")
CHIP = CHIPS["v6e"]
USUAL = {"chips": 64, "batch": 128, "blocks": 24, "side": 1024}
PANELS = {
    "chips": (16, 32, 64, 128, 256),
    "batch": (64, 128, 256, 512),
    "blocks": (6, 12, 18, 24),
    "side": (512, 768, 1024, 1536),
}
COLOURS = {"compute": "#37474f", "teacher split": "#c62828", "teacher whole": "#1565c0"}
COMPILED = {"compute": 674, "teacher split": 124, "teacher whole": 63}  # ms: configs/plans


def at(panel: str, value: int) -> dict[str, int]:
    """The usual sizes but for one; more chips have more samples, two each."""
    more = {"batch": 2 * value} if panel == "chips" else {}
    return USUAL | {panel: value} | more


def gathered(params: Params) -> list[Any]:
    """The kernels that a pass gathers: modulations are used where they are."""
    named = trees.flatten(params).items()
    return [x for path, x in named if path.endswith("kernel") and "modulation" not in path]


@functools.cache
def student(chips: int, batch: int, blocks: int, side: int) -> tuple[dict, dict]:
    """Milliseconds at the chip's peaks, and GiB that a chip holds between two steps."""
    sizes = [f"match.job.batch_size={batch}", f"model.sample_size={side // 8}"]
    sizes += [f"model.depth={blocks}", f"match.heads.taps=({blocks // 2},{blocks - 1})"]
    config = configs.load(RECIPE, [*sizes, "compute.teacher_whole=False"])
    (program,) = programs(config, jax.devices()[:chips], ("student",))
    state, frozen, *_ = program.arguments
    fsdp, data = program.mesh.shape["fsdp"], program.mesh.shape["data"]
    kernels = sum(2 * math.prod(leaf.shape) for leaf in gathered(state.student.params))  # bf16
    gather, reduce = (fsdp - 1) / fsdp, 2 * (data - 1) / data / fsdp
    passes = {"teacher whole": program.trips + 2 + 3}  # the student's two, the fake score's three
    passes["teacher split"] = passes["teacher whole"] + 1 + config.match.match.trajectory_substeps
    seconds = {"compute": executed(program, compute_of(config)) / CHIP.flops}
    for name, number in passes.items():  # its own gradient comes to as much as a pass
        seconds[name] = kernels * ((number + 1) * gather + reduce) / CHIP.ici_bandwidth
    held = sum(map(device_bytes, jax.tree.leaves(program.arguments)))
    teacher = gathered(frozen.teacher)
    more = sum(leaf.size * leaf.dtype.itemsize for leaf in teacher)
    more -= sum(map(device_bytes, teacher))
    return (
        {name: 1e3 * value for name, value in seconds.items()},
        {"teacher whole": (held + more) / 2**30, "teacher split": held / 2**30},
    )


def main() -> None:
    """Two rows of panels: times at the peaks, and what is held."""
    simulate_devices(max(PANELS["chips"]))
    _, axes = plt.subplots(2, len(PANELS), figsize=(8.4, 3.8), sharey="row", sharex="col")
    for column, (panel, values) in enumerate(PANELS.items()):
        costs = [student(**at(panel, value)) for value in values]
        for row, found in zip(axes[:, column], zip(*costs, strict=True), strict=True):
            for name in found[0]:
                told = name if name == "compute" else f"ICI, {name}"
                line = [cost[name] for cost in found]
                row.plot(values, line, "o-", ms=3, color=COLOURS[name], label=told)
        for name, cost in COMPILED.items():
            axes[0, column].plot(USUAL[panel], cost, "x", ms=8, color=COLOURS[name])
        axes[1, column].set_xlabel("chips, 2 samples each" if panel == "chips" else panel)
        axes[0, column].set_yscale("log")
    axes[0, 0].set_ylabel("ms a step")
    axes[1, 0].set_ylabel("GiB held by a chip")
    axes[1, 0].set_ylim(0)
    axes[0, 0].legend(frameon=False, fontsize=7, loc="lower left")
    plt.tight_layout()
    plt.savefig(HERE / "scaling.svg", metadata={"Date": None}, bbox_inches="tight")
    for name, values in PANELS.items():
        for value in values:
            print(name, value, *student(**at(name, value)))


if __name__ == "__main__":
    main()
