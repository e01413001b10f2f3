"""Your own data and your own judge: discs on plain grounds, and how well their colour is met.

    python docs/examples/own_data.py WORKDIR

`data.source` and `evaluate.judges` name what is below: "own_data:discs", "own_data:COLOURS".
"""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from flashjax.cli import main
from flashjax.data.samples import Sample
from flashjax.evaluate.judge import Compared, Figure, JudgeKind, Needs

RECIPE = Path(__file__).parents[2] / "configs" / "nano_tiny.py"
PAINTS = {"red": (220, 40, 40), "green": (40, 160, 60), "blue": (50, 80, 220)}
SIDE, COUNT = 64, 60


def get_config() -> ConfigDict:
    config = runpy.run_path(str(RECIPE))["get_config"]()
    config.simulate_devices = 1
    config.data.update(source="own_data:discs", train=0, validation=12)
    config.evaluate.update(judges=("own_data:COLOURS",), samples=6)
    return config


class Discs:
    """The seam `Samples`: a name, a digest that changes where a sample does, pictures by index."""

    name, digest = "discs", "discs-1"

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int, /) -> Sample:
        random = np.random.default_rng(index)
        disc, ground = random.choice(list(PAINTS), 2, replace=False)
        rows, columns = np.mgrid[:SIDE, :SIDE]
        inside = np.hypot(rows - random.uniform(20, 44), columns - random.uniform(20, 44)) < 14
        image = np.where(inside[..., None], PAINTS[disc], PAINTS[ground]).astype(np.uint8)
        return Sample(image, f"{disc} on {ground}")

    def size(self, index: int, /) -> tuple[int, int]:
        return SIDE, SIDE


def discs() -> Discs:
    return Discs()


class Colours:
    """The seam `Judge`: how far the mean colour is from that of the ground that a prompt names."""

    name = "colours"
    note = "Distance of the mean colour from the ground's, in levels of 255."

    def check(self, prompts: Sequence[str]) -> None:
        """Any prompt can be judged."""

    def judge(self, images: np.ndarray, prompts: Sequence[str]) -> tuple[Figure, ...]:
        wanted = np.array([PAINTS.get(prompt.split()[-1], (128, 128, 128)) for prompt in prompts])
        away = np.abs(images.mean((1, 2)) - wanted).mean(1)
        error = float(away.std() / np.sqrt(len(away)))
        return (Figure("ground", float(away.mean()), "levels", better="less", error=error),)


def open_colours(weights: Path, compared: Compared) -> Colours:
    return Colours()


COLOURS = JudgeKind(Needs(), open_colours)


def run(workdir: Path) -> Path:
    """Caches the discs for nano, then has the judge measure what nano draws of their captions."""
    place = ["--config", __file__, "--workdir", str(workdir / "run")]
    prompts = workdir / "prompts.txt"
    prompts.write_text("".join(f"{Discs()[index].caption}\n" for index in range(4)))
    compared = ["evaluate", "--source", "nano", "--prompts", str(prompts), "--steps", "2"]
    judged = ["--judges", "own_data:COLOURS", "--real", "own_data:discs"]
    measure = [*compared, *judged, "--out", str(workdir / "compared")]
    for words in (["import", *place], ["prepare", *place], measure):
        if code := main(words):
            raise SystemExit(code)
    return workdir / "compared" / "report.html"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    print(run(folder))
