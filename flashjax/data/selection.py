"""Samples made of samples: a part of them, and several together by weight."""

import hashlib
from collections.abc import Sequence

import numpy as np

from flashjax.data.samples import Sample, Samples
from flashjax.types import InputError

LONGEST = 100  # times as many as there are: how long an epoch of a mixture may be
HELD_OUT = 5  # of so many samples that are given at most one is held out


class Chosen:
    """Samples `chosen` of others, in that order."""

    def __init__(self, samples: Samples, chosen: np.ndarray, name: str) -> None:
        self._samples, self._chosen, self.name = samples, chosen, name
        told = f"{samples.digest} {hashlib.sha256(chosen.tobytes()).hexdigest()}"
        self.digest = hashlib.sha256(told.encode()).hexdigest()[:12]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int, /) -> Sample:
        return self._samples[int(self._chosen[index])]

    def size(self, index: int, /) -> tuple[int, int] | None:
        """Of the sample that was chosen."""
        return self._samples.size(int(self._chosen[index]))


class Uncaptioned:
    """The same pictures, and nothing is said of them."""

    def __init__(self, samples: Samples) -> None:
        self._samples, self.name = samples, f"{samples.name}, without captions"
        self.digest = hashlib.sha256(f"{samples.digest} alone".encode()).hexdigest()[:12]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int, /) -> Sample:
        return Sample(self._samples[index].image, "")

    def size(self, index: int, /) -> tuple[int, int] | None:
        """Of the picture."""
        return self._samples.size(index)


class Mixed:
    """Several samples in one, spread evenly: each as often as its weight says.

    The length, an epoch, is the least in which every sample is seen once; of those with more than
    their share some are seen again. Without weights each is seen once. InputError for weights that
    make an epoch endless.
    """

    def __init__(self, parts: Sequence[Samples], weights: Sequence[float]) -> None:
        self.name = " + ".join(part.name for part in parts)
        self._parts = [part for part in parts if len(part)]
        sizes = np.array([len(part) for part in self._parts], int)
        shares = np.array(weights or list(map(len, parts)), np.float64)
        shares = shares[[len(part) > 0 for part in parts]]
        shares = shares / shares.sum()
        length = max(sizes / shares, default=0)
        if length > LONGEST * sizes.sum():
            raise InputError(
                f"weights={tuple(weights)} see every sample of {self.name} once in {length:.0f}: "
                f"give weights nearer to their numbers, {tuple(sizes.tolist())}"
            )
        counts = np.maximum(np.rint(shares * length), sizes).astype(int)
        source = np.repeat(np.arange(len(counts)), counts)
        inside = np.concatenate([np.arange(count) for count in counts] or [counts])
        places = (inside + 0.5) / counts[source]
        order = np.lexsort((source, places))
        self._source, self._inside = source[order], inside[order]
        told = " ".join([*(part.digest for part in parts), *(f"{s:.6f}" for s in shares)])
        self.digest = hashlib.sha256(told.encode()).hexdigest()[:12]

    def __len__(self) -> int:
        return len(self._source)

    def _place(self, index: int) -> tuple[Samples, int]:
        part = self._parts[self._source[index]]
        return part, int(self._inside[index]) % len(part)

    def __getitem__(self, index: int, /) -> Sample:
        part, inside = self._place(index)
        return part[inside]

    def again(self, index: int) -> bool:
        """Whether the sample that stands there has been there before: its part has more weight."""
        return int(self._inside[index]) >= len(self._parts[self._source[index]])

    def size(self, index: int, /) -> tuple[int, int] | None:
        """Of the sample that stands there."""
        part, inside = self._place(index)
        return part.size(inside)


def weighed_again(samples: Samples, index: int) -> bool:
    """Whether a sample stands where it does by its part's weight alone: it is no duplicate."""
    return isinstance(samples, Mixed) and samples.again(index)


def split(samples: Samples, *, seed: int, train: int, validation: int) -> dict[str, Samples]:
    """Samples to learn from and samples that are held out, no sample in both.

    `train` and `validation` are the most of each; a `train` of 0 is all that are left. Never more
    than a fifth is held out.
    """
    order = np.random.default_rng(seed).permutation(len(samples))
    held = min(validation, len(samples) // HELD_OUT)
    rest = order[held:]
    parts = {"train": rest[: train or None], "validation": order[:held]}
    return {
        name: Chosen(samples, np.sort(chosen), f"{samples.name} ({name})")
        for name, chosen in parts.items()
    }
