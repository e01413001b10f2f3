"""The judge without a network: how sharp pictures are, and how unlike over seeds of a prompt."""

from collections.abc import Sequence

import numpy as np

from flashjax.evaluate.detail import pixel_diversity, sharpness
from flashjax.evaluate.judge import Figure
from flashjax.evaluate.judges.features import check_pictures
from flashjax.evaluate.judges.figures import figure, note

NOTE = (
    "Sharpness is the standard deviation of the Laplacian of a picture, in grey levels: a blurred "
    "one has less than real pictures have, a noisy one more. Pixel diversity is the mean "
    "difference, in grey levels, of two pictures of one caption, where captions come twice."
)


class DetailJudge:
    """Sharpness, and diversity where prompts repeat."""

    name = "detail"
    note = note(NOTE)

    def check(self, prompts: Sequence[str]) -> None:
        """Any prompts will do."""

    def judge(self, images: np.ndarray, prompts: Sequence[str]) -> tuple[Figure, ...]:
        """One figure, or two."""
        check_pictures(images, prompts)
        found = [figure("sharpness", sharpness(images), decimals=1)]
        spread = pixel_diversity(images, prompts)
        if spread is not None:
            found.append(figure("pixel diversity", spread, decimals=1))
        return tuple(found)
