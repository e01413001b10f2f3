"""The sections of a config, each with the type of all its values, and which verb needs which.

What a verb reads is checked before it begins: a missing section, an unknown key, a value of another
type or out of its range are one line each.
"""

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.data.config import DataConfig
from flashjax.evaluate.bars import Targets
from flashjax.models.heads import HeadsConfig
from flashjax.stages.compute import Compute
from flashjax.stages.training import JobConfig
from flashjax.tools.ablate.grid import AblateConfig
from flashjax.tools.plan.programs import ModelConfig
from flashjax.train.arms import MatchConfig
from flashjax.train.average import AverageConfig
from flashjax.train.guide import GuideConfig
from flashjax.train.optim import OptimiserConfig
from flashjax.train.teach import TeachConfig
from flashjax.types import Count, InputError, Positive, Range, Seed, Share, Weight, Whole

Size = Annotated[int, Range(-1)]  # of a mesh's axis; -1 is what is left
Branch = tuple[Annotated[float, Range(0, 1000)], Annotated[float, Range(0, 1000)]]


@dataclasses.dataclass(frozen=True)
class Across:
    """Sizes of axes across slices."""

    branch: Size = 1  # copies of the student that are trained apart
    data: Size = 1  # shares of a batch, weights whole on each
    fsdp: Size = 1  # shares of a batch and of the weights
    context: Size = 1  # shares of a picture's tokens
    tensor: Size = 1  # shares of heads and hidden widths


@dataclasses.dataclass(frozen=True)
class Axes(Across):
    """Sizes of axes within a slice, and across."""

    dcn: Across = Across()  # sizes across slices or hosts; only branch and data may cross


@dataclasses.dataclass(frozen=True)
class Teacher:
    """What is distilled."""

    source: str  # folder, single file, GGUF, or a packaged name
    absent_t5: Annotated[int, Range(0, 512)]  # zero tokens for a T5 that is not there
    base: str | None = ""  # a pipeline's folder with what the source lacks


@dataclasses.dataclass(frozen=True)
class Student:
    """The student's grid."""

    steps: Annotated[int, Range(1, 1000)]  # from noise to picture


@dataclasses.dataclass(frozen=True)
class Guide:
    """Trajectory guidance."""

    job: JobConfig
    optimiser: OptimiserConfig
    guide: GuideConfig
    average: AverageConfig


@dataclasses.dataclass(frozen=True)
class Match:
    """Distribution matching."""

    job: JobConfig
    critic_updates: Count  # of fake score and heads for one of the student
    student_optimiser: OptimiserConfig
    fake_optimiser: OptimiserConfig
    heads_optimiser: OptimiserConfig
    heads: HeadsConfig
    match: MatchConfig
    average: AverageConfig
    prompts: str = ""  # a file of captions to match on without pictures
    warmup_steps: Whole = 0  # the first ones, in which the critic alone is trained
    probe_steps: Whole = 0  # between two looks at the gradient, for the log; 0 is none


@dataclasses.dataclass(frozen=True)
class Split:
    """The branches' training."""

    mesh: Axes
    branches: dict[str, Branch]  # ranges of timesteps, 0 to 1000, by name
    job: JobConfig
    student_optimiser: OptimiserConfig
    fake_optimiser: OptimiserConfig
    heads_optimiser: OptimiserConfig
    average: AverageConfig
    only: str = ""  # the one branch that this job trains; "" for all
    units: Literal["raw", "shifted"] = "raw"  # of the ranges; shifted is 1000 sigma


@dataclasses.dataclass(frozen=True)
class Merge:
    """A weight of every branch."""

    weights: dict[str, Share]  # of branches by name; they sum to 1


@dataclasses.dataclass(frozen=True)
class Export:
    """The student's files."""

    dtype: str  # of the student's files
    title: str  # in their metadata


@dataclasses.dataclass(frozen=True)
class Quantize:
    """Schemes of its GGUF files, the fewest bits last."""

    schemes: tuple[str, ...]  # of GGUF, the fewest bits last


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """What is drawn, and who judges it."""

    samples: Count  # drawn by each sampler
    shown: Count  # of them, in the report
    chunk: Count  # drawn at a time, on all devices together, at most
    seed: Seed  # of the noise
    teacher_steps: Annotated[int, Range(1, 1000)]  # of the teacher at its best
    guidance_scale: Weight  # of the teacher
    judges: tuple[str, ...]  # a task, detail, clip=DIR, pick=, dino=, fid=, package.module:name
    prompts: str = ""  # a file of captions to draw; "" for what the data holds out
    twice: Whole = 0  # of the captions, the first, are drawn from other noise too: for diversity


@dataclasses.dataclass(frozen=True)
class Report:
    """The page, and what it promises."""

    title: str  # of the page
    bars: Targets


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """The training of a teacher's autoencoder."""

    kl_weight: Weight  # of the posterior's divergence
    job: JobConfig
    optimiser: OptimiserConfig

    def __post_init__(self) -> None:
        _check_undrawn(self.job)


@dataclasses.dataclass(frozen=True)
class Slim(Autoencoder):
    """The training of a cheaper one: `channels` of its levels."""

    channels: tuple[Count, ...]  # of the levels, the finest first


@dataclasses.dataclass(frozen=True)
class Flow:
    """The training of a teacher's transformer and text encoders."""

    job: JobConfig
    optimiser: OptimiserConfig
    teach: TeachConfig
    average: AverageConfig

    def __post_init__(self) -> None:
        _check_undrawn(self.job)


@dataclasses.dataclass(frozen=True)
class Reader:
    """The training of a task's judge."""

    steps: Count  # of its training
    batch: Count  # samples of a step
    seed: Seed  # of its training


@dataclasses.dataclass(frozen=True)
class Taught:
    """The schedule of a teacher that is trained here."""

    shift: Positive  # of its schedule


@dataclasses.dataclass(frozen=True)
class Original:
    """The pipeline whose latents a slim autoencoder keeps."""

    source: str  # a pipeline's folder


MEANINGS = {  # of the keys that are in no section
    "seed": "of everything that is drawn at random, but the data's split",
    "simulate_devices": "a CPU is split into so many; 0 or 1: it is not",
}
ALL = {"seed": Seed, "simulate_devices": Annotated[int, Range(0, 4096)], "data": DataConfig}
DISTIL = ALL | {
    "mesh": Axes,
    "model": ModelConfig,
    "compute": Compute,
    "teacher": Teacher,
    "student": Student,
    "guide": Guide,
    "match": Match,
    "split": Split,
    "merge": Merge,
    "export": Export,
    "quantize": Quantize,
    "evaluate": Evaluate,
    "report": Report,
    "ablate": AblateConfig,
}
TEACH = ALL | {"mesh": Axes, "teacher": Taught, "vae": Autoencoder, "flow": Flow, "reader": Reader}
SLIM = ALL | {"teacher": Original, "slim": Slim}
OPTIONAL = ("model", "compute", "ablate")  # of DISTIL
TRAINING = ("data", "mesh", "student", "match")
NEEDS: dict[str, Sequence[str]] = {  # beside the seed and simulate_devices; of others: all
    "import": ("teacher", "mesh"),
    "prepare": ("data", "mesh"),
    "guide": (*TRAINING, "guide"),
    "match": TRAINING,
    "split": (*TRAINING, "split"),
    "merge": ("merge", "mesh"),
    "export": ("export", "data"),
    "quantize": ("quantize",),
    "evaluate": ("evaluate", "data", "mesh", "teacher", "student", "export", "quantize"),
    "report": ("report", "teacher", "student", "evaluate", "split", "export", "quantize"),
    "plan": (*TRAINING, "guide", "split"),
    "bench": (*TRAINING, "guide"),
    "teach": tuple(TEACH),
    "slim": tuple(SLIM),
}
EVERY: Sequence[str] = tuple(name for name in DISTIL if name not in OPTIONAL)


def _check_undrawn(job: JobConfig) -> None:
    """InputError for pictures of a teacher that is trained, which nobody draws."""
    for key in ("sample_steps", "judge_steps"):
        if getattr(job, key):
            raise InputError(f"job.{key} is of guide and match: set it to 0")


def load(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of a recipe; overrides may name every key that `flashjax explain` knows."""
    return configs.load(path, overrides, defaults())


def defaults() -> dict[str, Any]:
    """The keys that a recipe may leave out, by path, and what they are then."""
    roads = (SLIM, TEACH, DISTIL)
    return dict(pair for road in roads for name, kind in road.items() for pair in _left(name, kind))


def _left(path: str, kind: Any) -> Iterator[tuple[str, Any]]:
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        inner = f"{path}.{field.name}"
        if field.default is not dataclasses.MISSING and not dataclasses.is_dataclass(field.default):
            yield inner, field.default
        yield from _left(inner, hints[field.name])


def check(config: ConfigDict, verb: str, *, ranges: bool = True) -> None:
    """InputError, with a line for each thing that is wrong with the sections of a config.

    Without `ranges` values of the right types pass.
    """
    found = problems(config, verb)
    if found and (ranges or not all(isinstance(error, configs.OutOfRange) for error in found)):
        raise InputError(*(line for error in found for line in error.args))


def problems(config: ConfigDict, verb: str) -> list[InputError]:
    """What is wrong with the sections of a config that `verb` is to run, an error for each."""
    road: Mapping[str, Any] = {"teach": TEACH, "slim": SLIM}.get(verb, DISTIL)
    needed = ("seed", "simulate_devices", *NEEDS.get(verb, EVERY))
    missing = [name for name in dict.fromkeys(needed) if name not in config]
    if missing:
        return [InputError(f"config lacks {', '.join(missing)}, which `flashjax {verb}` reads")]
    unknown = [configs.unknown("", key, list(road)) for key in config if key not in road]
    return unknown + [
        error
        for name in config
        if name in road
        for error in refused(configs.section, config, name, road[name])
    ]


def refused(call: Callable[..., Any], *arguments: Any) -> list[InputError]:
    """What a call refuses; nothing if it goes well."""
    try:
        call(*arguments)
    except InputError as error:
        return [error]
    return []
