"""What blur and sameness look like in pixels: sharpness, and how far seeds of a prompt lie apart.

Letters: n pictures, H W pixels.
"""

from collections.abc import Sequence

import numpy as np

from flashjax.evaluate.estimates import Estimate, mean_of


def sharpness(images: np.ndarray) -> Estimate:
    """The standard deviation of the Laplacian of pictures uint8 "n H W 3", in grey levels.

    The Laplacian is that of the four neighbours, where a pixel has all of them; the value is the
    mean over the pictures. It tells blurred pictures from real ones, and noise from both.
    Source: Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy" (its square).
    """
    return mean_of(np.array([_spread(np.asarray(image, np.float64)) for image in images]))


def _spread(image: np.ndarray) -> float:
    """The standard deviation of one picture's Laplacian, "h w 3" in float64."""
    grey = image.mean(-1)
    middle, rows, columns = grey[1:-1, 1:-1], grey[:, 1:-1], grey[1:-1, :]
    around = rows[:-2] + rows[2:] + columns[:, :-2] + columns[:, 2:]
    return float((around - 4 * middle).std())


def pixel_diversity(images: np.ndarray, groups: Sequence[str]) -> Estimate | None:
    """The mean absolute difference, in grey levels, of pictures of one group in `groups` "n".

    A group is what has one name, a prompt; the value is the mean over groups of that of all pairs.
    None where no name comes twice.
    """
    names, spreads = np.asarray(groups), []
    for name in dict.fromkeys(groups):  # one by one: all in float64 take ten times as much memory
        same = np.asarray(images[names == name], np.float64)
        pairs = [np.abs(a - b).mean() for i, a in enumerate(same) for b in same[:i]]
        spreads += [np.mean(pairs)] if pairs else []
    return mean_of(np.array(spreads)) if spreads else None
