"""The one door for tasks: what `data.source` and `evaluate.judges` name, behind the seams."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.convert.pipeline import Pipeline
from flashjax.data.config import DataConfig
from flashjax.data.kinds.drawn import is_undrawn, place_of, with_pictures
from flashjax.data.kinds.listed import Wording
from flashjax.data.kinds.recognise import open_kind
from flashjax.data.prompts import read_prompts
from flashjax.data.remote.fetch import fetched
from flashjax.data.samples import Samples, Unreadable
from flashjax.data.selection import Mixed, Uncaptioned, split
from flashjax.data.tokenizers import Tokenizer
from flashjax.evaluate.judge import Compared, Judge, JudgeKind, Needs
from flashjax.evaluate.judges import KINDS, WEIGHTLESS
from flashjax.tasks import NAMES, open_task, task_of
from flashjax.tasks.task import Task
from flashjax.types import InputError, code_of, is_code

log = logging.getLogger(__name__)

JUDGES = "evaluate.judges"  # where a config names them
DRAWN = "draw"  # the folder of what a teacher drew, where data is kept
SEEING = ("adversarial_weight", "feature_weight")  # of losses that see real pictures
NO_PICTURES = (
    "data.source has no pictures for the heads, but match.match.{name}={weight}: set it "
    "to 0, or data.draw.steps to 32 to have the teacher draw some"
)
_TASKS = f"the name of a task ({', '.join(NAMES)})"


def open_samples(config: ConfigDict, folder: Path) -> dict[str, Samples]:
    """The samples of a config by split; what is made for them is kept in `folder`.

    InputError for data that is not there, or that nobody here can read.
    """
    data = configs.section(config, "data", DataConfig)
    parts = [_open_source(source, data, folder) for source in data.sources]
    if data.draw.steps:
        parts = [with_pictures(part, folder / DRAWN, n) for n, part in enumerate(parts)]
    if len(parts) == 1:
        return parts[0]
    weights = {"train": data.weights, "validation": ()}  # what is judged is judged once
    return {name: Mixed([part[name] for part in parts], weights[name]) for name in weights}


def has_task(config: ConfigDict) -> bool:
    """Whether a task makes some of the data."""
    return not set(NAMES).isdisjoint(configs.section(config, "data", DataConfig).sources)


def undrawn(config: ConfigDict, folder: Path) -> dict[Path, Samples]:
    """The captions of a config that have no pictures, by where those belong that are drawn."""
    data = configs.section(config, "data", DataConfig)
    return {
        place_of(folder / DRAWN, number, split): samples
        for number, source in enumerate(data.sources)
        if source not in NAMES
        for split, samples in _open_source(source, data, folder).items()
        if is_undrawn(samples)
    }


def _open_source(source: str, data: DataConfig, folder: Path) -> dict[str, Samples]:
    counts = {"seed": data.seed, "train": data.train, "validation": data.validation}
    if source in NAMES:
        parts = open_task(source).open(folder, **counts)
    else:
        parts = split(_open_kind(source, data), **counts)
    if data.captions == "none":
        return {name: Uncaptioned(samples) for name, samples in parts.items()}
    return parts


def _open_kind(source: str, data: DataConfig) -> Samples:
    wording = Wording(data.empty_caption, data.captions, data.seed)
    try:
        samples = open_kind(source, wording, others=_TASKS)
    except InputError as error:
        raise InputError(f"data.source: {error}") from error
    if data.captions == "none" and is_undrawn(samples):
        raise InputError(f"data.captions=none, and {samples.name} has captions alone")
    return samples


def task_named(config: ConfigDict) -> Task:
    """The task of `data.source`."""
    return _task(config.data.get("source", ""), "data.source")


def task_of_pipeline(pipeline: Pipeline, tokenizer: Tokenizer) -> Task | None:
    """The task that a pipeline was made for, by the size of its pictures and its words."""
    return task_of(pipeline.sample_size * pipeline.vae_config.factor, tokenizer.words)


def open_judges(
    names: Sequence[str],
    pipeline: Path,
    compared: Compared,
    prompts: Sequence[str],
    *,
    key: str = JUDGES,
) -> list[Judge]:
    """The judges `names`: a task, with weights in the pipeline's folder, "clip=PATH", or "detail".

    `prompts` is what will be judged; `key` is where the names stand. InputError for what judges
    lack. One whose weights are not there is left out, and a line says so.
    """
    judges = []
    for told in names:
        kind, path = _judge(told, pipeline, key)
        weights = fetched(path)
        if not weights.exists():
            log.warning("%s: %s is left out, it needs %s", key, told, kind.needs.weights)
            continue
        judge = kind.open(weights, compared)
        judge.check(prompts)
        judges.append(judge)
    return judges


def weights_of(names: Sequence[str]) -> dict[str, Path]:
    """The weights of judges that name them, "clip=PATH", by the judge; of those that are there."""
    paths = {told: fetched(told.partition("=")[2]) for told in names if "=" in told}
    return {f"judge {told}": path for told, path in paths.items() if path.exists()}


def _judge(told: str, pipeline: Path, key: str) -> tuple[JudgeKind, str]:
    """A kind of judge and where its weights are: "task", "name=path", "package.module:name"."""
    name, _, path = told.partition("=")
    if told in WEIGHTLESS:
        return WEIGHTLESS[told], ""
    if is_code(name):
        kind = code_of(name, key)
        if not isinstance(kind, JudgeKind):
            raise InputError(f"{key}: {name} is {kind!r:.60}: give a JudgeKind")
        if kind.needs.weights and not path:
            raise InputError(
                f"{key}: {name} has no weights, give {name}=PATH: {kind.needs.weights}"
            )
        return kind, path
    if name in KINDS:
        if not path:
            needed = KINDS[name].needs.weights
            raise InputError(f"{key}: {name} has no weights, give {name}=PATH: {needed}")
        return KINDS[name], path
    if name not in NAMES or path:
        known = [*NAMES, *WEIGHTLESS, *(f"{kind}=PATH" for kind in KINDS), "package.module:name"]
        raise InputError(f"{key}: {told!r} is unknown: choose of {', '.join(known)}")
    task = open_task(name)
    return task.judge, str(task.weights(pipeline))


def check_data(config: ConfigDict) -> None:
    """InputError for data that is not there, that nobody can read, or that no head can see.

    A task makes its own.
    """
    data = configs.section(config, "data", DataConfig)
    others = [_open_kind(s, data) for s in dict.fromkeys(data.sources) if s not in NAMES]
    pictures = has_task(config) or data.draw.steps or not all(map(is_undrawn, others))
    if not pictures and "match" in config:
        check_unseen(config.match.match)


def check_unseen(weights: Mapping[str, Any]) -> None:
    """InputError for a weight of a loss that sees pictures, where there are none."""
    for name in SEEING:
        if weight := weights.get(name, 0):
            raise InputError(NO_PICTURES.format(name=name, weight=weight))


def check_held_out(config: ConfigDict) -> None:
    """InputError where fewer samples are held out than are drawn and compared with.

    A task holds out as many as it is asked for.
    """
    data, count = configs.section(config, "data", DataConfig), config.evaluate.samples
    others = set(data.sources).difference(NAMES)
    found, among_pictures = held_out(config)
    needed, compared = (2 * count, " and to compare with") if among_pictures else (count, "")
    if found < needed and (found or not config.evaluate.get("prompts")):
        raise InputError(
            f"evaluate.samples={count}: {found} samples are held out, and {needed} are needed, to "
            f"draw{compared}: lower it, or raise data.validation"
            f"{' (never more than a fifth of the samples is held out)' if others else ''}"
        )


def held_out(config: ConfigDict) -> tuple[int, bool]:
    """How many samples can be drawn and judged, and whether it is those that have pictures."""
    data = configs.section(config, "data", DataConfig)
    made = [source for source in data.sources if source in NAMES]
    others = [source for source in data.sources if source not in NAMES]
    held = [_open_source(source, data, Path())["validation"] for source in others]
    pictured = [part for part in held if data.draw.steps or _has_pictures(part)]
    among_pictures = bool(made or pictured)
    found = len(made) * data.validation + sum(map(len, pictured if among_pictures else held))
    return found, among_pictures


def _has_pictures(samples: Samples) -> bool:
    try:
        return len(samples) > 0 and samples.size(0) is not None
    except Unreadable:
        return True


def check_judges(names: Sequence[str], *, key: str = JUDGES) -> None:
    """InputError for a judge that nobody knows."""
    for told in names:
        _judge(told, Path(), key)


def check_judged(config: ConfigDict) -> None:
    """InputError where a judge could not judge the captions that will be drawn.

    The captions of a task are its own judge's; those of other data are read where a judge asks.
    """
    data = configs.section(config, "data", DataConfig)
    needs = {told: _judge(told, Path(), JUDGES)[0].needs for told in config.evaluate.judges}
    asks = any(need.read or need.real for need in needs.values())
    sources = [source for source in data.sources if source not in NAMES]
    opened = [_open_source(source, data, Path()) for source in sources if asks]
    file, count = config.evaluate.get("prompts", ""), config.evaluate.samples
    held = [parts["validation"] for parts in opened]
    listed = read_prompts(file) if file else list(_captions(held, count))
    if file:  # or real pictures of the captions are judged, too, and each of them is there once
        count = len(listed) + min(len(listed), config.evaluate.get("twice", 0))
    pictured = (
        len(sources) < len(data.sources)
        or data.draw.steps
        or any(_has_pictures(part) for parts in opened for part in parts.values())
    )
    for told, need in needs.items():
        if count < need.least:
            raise InputError(
                f"{JUDGES}: {told} needs {need.least} pictures, {count} are to be drawn: raise "
                f"evaluate.samples"
            )
        if need.real and not pictured:
            raise InputError(f"{JUDGES}: {told} needs real pictures, and data.source has none")
        if need.said and not file and (data.captions == "none" or not data.empty_caption.strip()):
            raise InputError(
                f"{JUDGES}: {told} scores pictures by what captions say, and with data.captions="
                f"{data.captions}, data.empty_caption={data.empty_caption!r} they may say nothing: "
                f"name others, as detail"
            )
        _check_read(told, need, listed)


def _check_read(told: str, need: Needs, captions: Sequence[str]) -> None:
    """InputError where a judge that knows one world could not judge captions of other data."""
    if need.read is None:
        return
    try:
        for caption in captions:
            if not caption.strip():  # of a task it is any scene, of other data anything
                raise InputError("an empty caption is of any world")
            need.read(caption)
    except InputError as error:
        raise InputError(
            f"{JUDGES}: {told} judges its own world alone ({error}): name others, as detail"
        ) from error


def _captions(parts: Sequence[Samples], count: int) -> Iterator[str]:
    """The first captions of each part."""
    for part in parts:
        for index in range(min(count, len(part))):
            with contextlib.suppress(Unreadable):  # left out when pictures are drawn, too
                yield part[index].caption


def _task(name: str, key: str) -> Task:
    if name not in NAMES:
        raise InputError(f"{key}: {name!r} is unknown: choose of {', '.join(NAMES)}")
    return open_task(name)
