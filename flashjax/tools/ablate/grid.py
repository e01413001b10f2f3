"""The cells of an ablation: what each changes in the config, and in which order they are run."""

import copy
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.flow.schedule import steps_in_range
from flashjax.types import Count, Decay, InputError, Range, Seed, Share, Weight, Whole

ANCHOR = "anchor_substeps"  # what an arm may have of its own, beside changes of `match`
Timestep = Annotated[float, Range(0, 1000)]


@dataclasses.dataclass(frozen=True)
class SplitArm:
    """One way to go on from a matched student, in branches."""

    branches: dict[str, tuple[Timestep, Timestep]]  # ranges of raw timesteps, by name
    weights: tuple[dict[str, Share], ...]  # of branches, each is tried; () keeps them apart
    decay: Decay = 0.85  # of their average


@dataclasses.dataclass(frozen=True)
class AblateConfig:
    """The grid: every arm with every anchor and pull, by steps and seed; then branches.

    The first anchor and pull are run first: the arms of `first` over all seeds, branches, the rest.
    """

    steps: tuple[Count, ...]  # of a student, each is guided once
    seeds: tuple[Seed, ...]  # of matching: noise, order of the data, heads
    arms: dict[str, Any]  # what each changes in the section `match`, by name
    trajectory: tuple[Weight, ...]  # weights of the trajectory loss
    pull: tuple[Share, ...]  # of the fake score towards the student
    splits: dict[str, SplitArm]  # by name
    split_from: str  # the arm whose students are split
    first: tuple[str, ...] = ()  # arms that are run before the others
    later: tuple[str, ...] = ()  # arms of the levels after a step's: one step has none of them
    halving: tuple[str, ...] = ()  # arms that draw in half as many steps, too: from four steps on
    teacher_substeps: Count = 16  # of the teacher over all steps of the student, for its guidance
    anchor_substeps: Count = 4  # and for the trajectory term of an arm that has none of its own
    tuned: Count = 100  # held-out captions that the weights of branches are chosen on
    shown: Whole = 8  # pictures of each row in the page


@dataclasses.dataclass(frozen=True)
class Cell:
    """One student; without an arm it is guided alone, with a split it goes on from its match."""

    steps: int
    arm: str = ""
    trajectory: float = 0.0
    pull: float = 0.0
    seed: int = 0
    split: str = ""

    @property
    def name(self) -> str:
        """Its folder."""
        if not self.arm:
            return f"{self.steps}-guided"
        tail = f"-{self.split}" if self.split else ""
        return f"{self.matched}{tail}"

    @property
    def matched(self) -> str:
        """The folder of the student that is matched."""
        terms = f"t{self.trajectory:g}-p{self.pull:g}-s{self.seed}"
        return f"{self.steps}-{self.arm}-{terms}"


def read_grid(config: ConfigDict) -> AblateConfig:
    """The section `ablate`. InputError for names and weights that do not go together."""
    if "ablate" not in config:
        raise InputError("the config has no section `ablate`: begin with configs/ablation_nano.py")
    grid = configs.section(config, "ablate", AblateConfig)
    named = {"first": grid.first, "later": grid.later, "halving": grid.halving}
    named["split_from"] = (grid.split_from,) if grid.splits else ()
    for key, names in named.items():
        for name in names:
            if name not in grid.arms:
                known = ", ".join(grid.arms)
                raise InputError(f"ablate.{key} has {name!r}: choose of the arms {known}")
    for name, arm in grid.arms.items():
        substeps = _plain(arm).get(ANCHOR, 1)
        if type(substeps) is not int or substeps < 1:
            raise InputError(f"ablate.arms.{name}.{ANCHOR} is {substeps!r}: give 1 or more")
    for name, split in grid.splits.items():
        for weights in split.weights:
            if weights.keys() != split.branches.keys() or abs(sum(weights.values()) - 1) > 1e-6:
                raise InputError(
                    f"ablate.splits.{name}: weights {weights} must be one of each of "
                    f"{', '.join(split.branches)}, and sum to 1"
                )
    return grid


def cells(grid: AblateConfig) -> list[Cell]:
    """All cells, the most telling first: a partial table is a smaller experiment, no worse one.

    Guided students; then the first arms, a seed at a time, with the first anchor and pull; then
    branches; the other arms; then the other anchors and pulls.
    """
    guided = [Cell(steps) for steps in grid.steps]
    terms, *others = itertools.product(grid.trajectory, grid.pull)
    split_from = [grid.split_from] if grid.splits else []  # splits go on from it
    first = list(dict.fromkeys([*grid.first, *split_from]))
    rest = [name for name in grid.arms if name not in first]
    return [
        *guided,
        *_arms(grid, first, terms),
        *_splits(grid, terms),
        *_arms(grid, rest, terms),
        *(cell for found in others for cell in _arms(grid, [*first, *rest], found)),
    ]


def _arms(grid: AblateConfig, names: Sequence[str], terms: tuple[float, float]) -> Iterator[Cell]:
    for seed, steps, arm in itertools.product(grid.seeds, grid.steps, names):
        if steps >= (4 if arm in grid.halving else 2 if arm in grid.later else 1):
            yield Cell(steps, arm, *terms, seed)


def _splits(grid: AblateConfig, terms: tuple[float, float]) -> Iterator[Cell]:
    for seed, steps, name in itertools.product(grid.seeds, grid.steps, grid.splits):
        ranges = grid.splits[name].branches.values()
        if all(steps_in_range(steps, *found) for found in ranges):
            yield Cell(steps, grid.split_from, *terms, seed, name)


def trained_by(grid: AblateConfig, cell: Cell) -> Cell:
    """The cell that trains the branches of a cell: arms of one training differ in what follows."""
    asked = grid.splits[cell.split]
    same = (
        name
        for name, other in grid.splits.items()
        if (other.branches, other.decay) == (asked.branches, asked.decay)
    )
    return dataclasses.replace(cell, split=next(same))


def needs(grid: AblateConfig, cell: Cell) -> set[str]:
    """The names of the cells that a cell goes on from."""
    if not cell.arm:
        return set()
    found = {Cell(cell.steps).name}
    if cell.split:
        found |= {cell.matched, trained_by(grid, cell).name}
    return found - {cell.name}


def terms_of(grid: AblateConfig, cell: Cell) -> tuple[float, float]:
    """The anchor and the pull that a cell is matched with: its arm may have its own."""
    own = _plain(_plain(grid.arms[cell.arm]).get("match", {}))
    return own.get("trajectory_weight", cell.trajectory), own.get("fake_pull", cell.pull)


def configured(config: ConfigDict, grid: AblateConfig, cell: Cell) -> ConfigDict:
    """The config of a cell: the recipe, with what the cell changes."""
    found = ConfigDict(copy.deepcopy(config.to_dict())).unlock()
    found.seed, found.student.steps = cell.seed, cell.steps
    found.guide.guide.substeps = max(1, grid.teacher_substeps // cell.steps)
    arm = dict(_plain(grid.arms[cell.arm])) if cell.arm else {}
    anchor = arm.pop(ANCHOR, grid.anchor_substeps)
    terms: dict[str, Any] = dict(halved=0.0, trajectory_substeps=max(1, anchor // cell.steps))
    terms |= dict(trajectory_weight=cell.trajectory, fake_pull=cell.pull)
    recipe = _merged(found.match.to_dict(), {"match": terms})
    found.match = ConfigDict(_merged(recipe, arm))
    if cell.split:
        split = grid.splits[cell.split]
        found.split.branches = ConfigDict(split.branches)
        found.split.mesh.branch = len(split.branches)
        found.split.average.decay = split.decay
    return found.lock()


def _merged(section: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A section with changes to it and to the sections within."""
    found = dict(section)
    for key, value in changes.items():
        within = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = _merged(found[key], value) if within else value
    return found


def _plain(section: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    return section.to_dict() if isinstance(section, ConfigDict) else dict(section)
