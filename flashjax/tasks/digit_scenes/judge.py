"""The reader as a judge: what pictures show of their captions, and how far they are from scenes."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flashjax.evaluate.frechet import frechet_distance
from flashjax.evaluate.judge import Figure, Needs
from flashjax.evaluate.judges.features import check_count
from flashjax.evaluate.neighbours import NEIGHBOURS, precision_recall
from flashjax.tasks.digit_scenes.alignment import ATTRIBUTES, alignment
from flashjax.tasks.digit_scenes.captions import parse_caption
from flashjax.tasks.digit_scenes.reading import (
    load_card,
    load_reader,
    read,
    reader_features,
    to_model,
)
from flashjax.types import InputError

NEEDS = Needs(
    weights="the folder `reader` beside the teacher's networks",
    real=True,
    least=NEIGHBOURS + 1,
    read=parse_caption,
)
NOTE = (
    "Alignment is the share of captions, in percent, of which every part is met, with one binomial "
    "standard error; then each part on its own. A caption that asks for nothing is met by any "
    "scene of one or two digits that can be read. The Fréchet distance is taken in the reader's "
    "feature space against real scenes: less is better. Precision is the share of pictures that "
    "lie among real scenes there, recall the share of real scenes that lie among the pictures "
    "({k} neighbours). The reader was itself judged: on "
    "{samples:,} real validation scenes it is right about {whole:.1f} % of whole captions "
    "({parts})."
)


class ReaderJudge:
    """Alignment with captions of scenes, and the Fréchet distance from real scenes."""

    name = "digit_scenes"

    def __init__(self, weights: Path, real: np.ndarray) -> None:
        self._reader = load_reader(weights)
        self._features = reader_features(self._reader, to_model(real))
        self.note = note_of(load_card(weights))

    def check(self, prompts: Sequence[str]) -> None:
        """InputError for a prompt that is no caption of a scene, and for too few."""
        check_count(self.name, prompts, NEEDS.least)
        for prompt in prompts:
            parse_caption(prompt)

    def judge(self, images: np.ndarray, prompts: Sequence[str]) -> tuple[Figure, ...]:
        """Alignment as a whole and by part, the distance, precision and recall."""
        unit = to_model(images)
        wanted = [parse_caption(prompt) for prompt in prompts]
        shares = alignment(read(self._reader, unit), wanted)
        features = reader_features(self._reader, unit)
        distance = frechet_distance(features, self._features)
        both = zip(("precision", "recall"), precision_recall(features, self._features), strict=True)
        near = [Figure(name, 100 * e.value, unit="%", decimals=1) for name, e in both]
        parts = ATTRIBUTES if any(asked.digits for asked in wanted) else ()
        return *figures_of(shares, distance, parts, samples=len(images)), *near


def open_judge(weights: Path, real: np.ndarray | None) -> ReaderJudge:
    """The judge with the reader of the folder `weights`. InputError without real pictures."""
    if real is None:
        raise InputError("the reader compares with real scenes: data.source has no pictures")
    return ReaderJudge(weights, real)


def figures_of(
    shares: dict[str, float], distance: float, parts: Sequence[str] = ATTRIBUTES, *, samples: int
) -> tuple[Figure, ...]:
    """Shares (0..1) of `samples` pictures in percent, the whole with one standard error."""
    whole = shares["whole"]
    error = 100 * math.sqrt(whole * (1 - whole) / samples)
    share = functools.partial(Figure, unit="%", decimals=1, heading="Alignment")
    return (
        share("whole", 100 * whole, error=error),
        *(share(name, 100 * shares[name]) for name in parts),
        Figure("Fréchet", distance, better="less"),
    )


def note_of(card: dict) -> str:
    """What the figures mean, and how far the reader is to be trusted."""
    accuracy = card["accuracy"]
    parts = ", ".join(f"{name} {100 * accuracy[name]:.1f}" for name in ATTRIBUTES)
    samples = card["validation_scenes"]
    return NOTE.format(samples=samples, k=NEIGHBOURS, whole=100 * accuracy["whole"], parts=parts)
