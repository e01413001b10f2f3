"""What a student's step costs a chip, by size and machine: python docs/figures/scaling.py

Operations and bytes held are the plan's own, from shapes; bytes gathered are those of the weights,
once for every pass that gathers them. Nothing is compiled.
"""

import math
from pathlib import Path

import jax
import matplotlib
import matplotlib.pyplot as plt

from flashjax import config as configs
from flashjax import trees
from flashjax.parallel.chips import CHIPS
from flashjax.parallel.mesh import simulate_devices
from flashjax.tools.plan.programs import Planned, compute_of, device_bytes, programs
from flashjax.tools.plan.report import executed

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
COMPILED = {"ICI, teacher split": 174}  # ms, of the plan in docs/measured.md


def student(*, chips: int, batch: int, blocks: int, side: int, whole: bool) -> dict[str, float]:
    """Milliseconds at the chip's peaks, and GiB that a chip holds between steps."""
    sizes = [f"match.job.batch_size={batch}", f"model.sample_size={side // 8}"]
    sizes += [f"model.depth={blocks}", f"match.heads.taps=({blocks // 2},{blocks - 1})"]
    config = configs.load(RECIPE, [*sizes, f"compute.teacher_whole={whole}"])
    (program,) = programs(config, jax.devices()[:chips], ("student",))
    held = sum(map(device_bytes, jax.tree.leaves(program.arguments)))
    told = "whole" if whole else "split"
    return {
        "compute": 1e3 * executed(program, compute_of(config)) / CHIP.flops,
        f"ICI, teacher {told}": 1e3 * moved(program, config) / CHIP.ici_bandwidth,
        f"held, teacher {told}": held / 2**30,
    }


def moved(program: Planned, config) -> float:
    """Bytes that a chip receives: bf16 weights in each pass, and its gradients once."""
    mesh = program.mesh.shape
    kernels = trees.flatten(program.arguments[0].student.params)
    split = sum(math.prod(leaf.shape) for path, leaf in kernels.items() if path.endswith("kernel"))
    share = (mesh["fsdp"] - 1) / mesh["fsdp"]
    teacher = 0 if compute_of(config).teacher_whole else 1 + config.match.match.trajectory_substeps
    passes = program.trips + 2 + 3 + teacher  # the student's two, the fake score's three
    groups = 2 * (mesh["data"] - 1) / mesh["data"] / mesh["fsdp"]
    return 2 * split * ((passes + 1) * share + groups)


def main() -> None:
    """Two rows of panels: times at the peaks, and what is held."""
    simulate_devices(max(PANELS["chips"]))
    colours = {"compute": "#37474f", "split": "#c62828", "whole": "#1565c0"}
    _, axes = plt.subplots(2, len(PANELS), figsize=(8.4, 3.8), sharey="row", sharex="col")
    for column, (name, values) in enumerate(PANELS.items()):
        found: dict[str, list[float]] = {}
        for value in values:
            at = USUAL | {name: value}
            for label, cost in (student(**at, whole=False) | student(**at, whole=True)).items():
                found.setdefault(label, []).append(cost)
        for label, costs in found.items():
            row = axes[label.startswith("held"), column]
            row.plot(values, costs, "o-", ms=3, color=colours[label.split()[-1]], label=label)
        for label, cost in COMPILED.items():
            axes[0, column].plot(USUAL[name], cost, "x", color=colours[label.split()[-1]])
        axes[1, column].set_xlabel(name)
        axes[0, column].set_yscale("log")
    axes[0, 0].set_ylabel("ms a step")
    axes[1, 0].set_ylabel("GiB a chip")
    axes[1, 0].set_ylim(0)
    for row in axes[:, -1]:
        row.legend(frameon=False, fontsize=7)
    plt.tight_layout()
    plt.savefig(HERE / "scaling.svg", metadata={"Date": None}, bbox_inches="tight")


if __name__ == "__main__":
    main()
