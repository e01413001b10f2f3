"""The figures of the documentation: python docs/figures/make.py"""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from flashjax.flow.path import add_noise, matching_noise, to_noise, to_x0
from flashjax.flow.schedule import sampler_sigmas, student_sigmas

matplotlib.rcParams.update({"svg.hashsalt": "flashjax", "font.size": 9, "axes.spines.top": False})
matplotlib.rcParams["axes.spines.right"] = False
SIGMA = "\N{GREEK SMALL LETTER SIGMA}"

HERE = Path(__file__).parent
DEMO = {  # `make demo`, seed 0: whole captions %, ms a picture
    "teacher, 50 steps": (87.0, 119.7),
    "teacher, 4 steps": (61.0, 11.0),
    "teacher, 2 steps": (24.5, 6.4),
    "student, 4 steps": (84.5, 6.1),
    "student, 2 steps": (86.0, 3.8),
    "student 6-bit, 4 steps": (84.0, 6.0),
}


def save(name: str) -> None:
    plt.savefig(HERE / name, metadata={"Date": None}, bbox_inches="tight")
    plt.close()


def paths() -> None:
    """One student step, and where its scores are compared: shared or re-noised."""
    x, velocity = np.array([[1.6]]), np.array([[0.9]])
    sigma = np.array([0.9])
    x0, noise = to_x0(velocity, x, sigma), to_noise(velocity, x, sigma)
    levels = np.linspace(0.02, 0.98, 50)
    plt.figure(figsize=(5.6, 3))
    line = [float(add_noise(x0, noise, np.array([s]))[0, 0]) for s in levels]
    plt.plot(levels, line, color="#37474f", label="the student's own line")
    random = np.random.default_rng(0)
    for eta, colour, name in ((0.0, "#1565c0", "shared, η=0"), (1.0, "#c62828", "re-noised, η=1")):
        for index, level in enumerate((0.75, 0.5)):
            fresh = random.normal(size=(12, 1))
            mixed = np.asarray(matching_noise(np.repeat(noise, 12, 0), fresh, eta))
            points = add_noise(np.repeat(x0, 12, 0), mixed, np.full(12, level))
            label = name if not index else None
            plt.scatter(np.full(12, level), points[:, 0], s=14, color=colour, label=label, zorder=3)
    plt.scatter([0.9], [1.6], color="black", zorder=4, label=f"the state x at {SIGMA} = 0.9")
    plt.xlabel(f"{SIGMA} (0 data, 1 noise)")
    plt.ylabel("x")
    plt.legend(frameon=False)
    save("matching.svg")


def grids() -> None:
    """Noise levels of four steps: the scheduler's, and the student's."""
    plt.figure(figsize=(5.6, 2))
    rows = {"sampler": sampler_sigmas(4, 3.0), "student": student_sigmas(4, 3.0)}
    for row, sigmas in enumerate(rows.values()):
        plt.plot(sigmas, [row] * len(sigmas), "o-", color="#37474f")
        for sigma in sigmas:
            offset = (0, 7 if sigma else -14)
            text = f"{sigma:.1g}" if sigma < 0.1 else f"{sigma:.3g}"
            plt.annotate(text, (sigma, row), offset, textcoords="offset points", ha="center")
    plt.yticks(range(len(rows)), rows)
    plt.ylim(-0.5, 1.6)
    plt.gca().invert_xaxis()
    plt.xlabel(f"{SIGMA}, shift 3")
    save("grids.svg")


def speed() -> None:
    """What the demo measured: quality against milliseconds."""
    plt.figure(figsize=(5.6, 3))
    for name, (share, seconds) in DEMO.items():
        colour = "#c62828" if name.startswith("teacher") else "#1565c0"
        plt.errorbar(seconds, share, yerr=1.6, fmt="o", color=colour, capsize=2)
        below = name in ("student 6-bit, 4 steps", "teacher, 50 steps")
        offset = (6, -12) if below else (6, 4)
        aside = "right" if name == "teacher, 50 steps" else "left"
        plt.annotate(name, (seconds, share), offset, textcoords="offset points", ha=aside)
    plt.xscale("log")
    plt.xlabel("ms a picture, two CPU cores")
    plt.ylabel("whole captions, %")
    save("speed.svg")


FLOORS = (
    ("cli", "flashjax VERB"),
    ("tools/", "sample, export, quantize, evaluate, plan, …; flashjax.load"),
    ("stages/", "the road: import, prepare, guide, match, split, merge, …"),
    ("sources", "any checkpoint, recognised by what it holds"),
    ("evaluate/   tasks/", "drawing, judges, report; a guest's world"),
    ("quantize/", "codecs, containers, graphs of runtimes"),
    ("convert/", "SAI and diffusers keys, safetensors"),
    ("checkpoint   train/", "states on disk; pure steps, one loop"),
    ("losses/   flow/", "predictions to scalars; path, schedules, solvers"),
    ("models/   data/", "MMDiT-X, heads, encoders; samples to batches"),
    ("parallel/", "meshes, layouts, branches, hosts"),
    ("types, trees, config", "what all floors share"),
)


def floors() -> None:
    """The house: imports go down only."""
    _, axes = plt.subplots(figsize=(7.6, 5))
    for row, (name, text) in enumerate(reversed(FLOORS)):
        colour = "#eceff1" if row % 2 else "#e3f2fd"
        axes.add_patch(plt.Rectangle((0, row), 12, 0.9, facecolor=colour, edgecolor="#90a4ae"))
        axes.text(0.2, row + 0.45, name, va="center", family="monospace", weight="bold", size=9)
        axes.text(3.9, row + 0.45, text, va="center", size=8)
    axes.annotate(
        "", (12.4, 0.2), (12.4, 11.7), arrowprops={"arrowstyle": "->", "color": "#37474f"}
    )
    axes.text(12.6, 6, "imports go down only", rotation=270, va="center", size=8)
    axes.set_xlim(-0.2, 13.2)
    axes.set_ylim(-0.2, 12.2)
    axes.axis("off")
    save("floors.svg")


if __name__ == "__main__":
    for draw in (paths, grids, speed, floors):
        draw()
