"""Features of pictures: computed on this process' devices, and kept for sets that stay the same.

Letters: n pictures, H W pixels, d features.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from flashjax import trees
from flashjax.convert.writing import replacing
from flashjax.data.jsons import read_array
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.watch import alive
from flashjax.types import InputError, Params

CHUNK = 32  # pictures at a time on each device


class Extractor:
    """Rows "n ..." (pictures, token ids) to features float32 "n d"; the weights lie on all devices.

    `forward(params, batch)` gives "b d" of what `prepare` makes of each row, on the host. `name`
    is the network's, `settings` all that features depend on beside weights and rows.
    """

    def __init__(
        self,
        forward: Callable[[Params, Array], Array],
        params: Params,
        *,
        prepare: Callable[[np.ndarray], np.ndarray],
        name: str,
        settings: str = "",
    ) -> None:
        self._mesh = make_mesh({"data": -1}, jax.local_devices())
        self._params = jax.device_put(params, NamedSharding(self._mesh, PartitionSpec()))
        self._forward, self._prepare = _precise(forward), prepare
        self.name, self._settings = name, settings

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """The features, a chunk at a time; each device has its share of a chunk.

        InputError where one is no number.
        """
        count, size = len(rows), self._mesh.size
        chunk = min(CHUNK, -(-count // size)) * size
        spread = NamedSharding(self._mesh, PartitionSpec("data"))
        parts: list[Array | np.ndarray] = []
        with ThreadPoolExecutor() as pool:
            for start in range(0, count, chunk):
                alive(f"features of {self.name} from row {start} of {count}")
                chosen = rows[np.arange(start, start + chunk) % count]
                batch = np.stack(list(pool.map(self._prepare, chosen)))
                parts.append(self._forward(self._params, jax.device_put(batch, spread)))
                # The devices work on this chunk while the host makes the next: no more than one.
                parts[-2:-1] = map(np.asarray, parts[-2:-1])
        found = np.concatenate([np.asarray(part) for part in parts])[:count].astype(np.float32)
        if not np.isfinite(found).all():
            raise InputError(f"features of {self.name} hold NaN: its weights are broken")
        return found

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of weights and settings."""
        weights = trees.digest(self._params)
        return hashlib.sha256(f"{weights} {self._settings}".encode()).hexdigest()


def kept(extract: Extractor, images: np.ndarray, folder: Path | None) -> np.ndarray:
    """The features of a set of pictures, read from `folder` where they were computed before.

    Their file is named after the digests of weights and pictures; without a folder nothing is kept.
    InputError for a file that is broken.
    """
    if folder is None:
        return extract(images)
    path = folder / f"{extract.name}-{extract.digest[:16]}-{set_digest(images)[:16]}.npy"
    if not path.is_file():
        with replacing(path) as new, new.open("wb") as file:
            np.save(file, extract(images), allow_pickle=False)
    features = read_array(path)
    if features.ndim != 2 or len(features) != len(images):
        raise InputError(
            f"{path} has features {features.shape} of {len(images)} pictures; delete it"
        )
    return features


def set_digest(images: np.ndarray) -> str:
    """SHA-256 of the pictures of a set and their order."""
    total = hashlib.sha256(f"{images.dtype} {images.shape}\n".encode())
    for image in images:
        total.update(np.ascontiguousarray(image))
    return total.hexdigest()


@dataclass(frozen=True, eq=False)
class Reference:
    """Features of pictures to compare with; figures end in `tag`: "" or "-T" for a teacher's.

    A teacher's are of the same prompts and noise, where there are as many.
    """

    tag: str
    features: np.ndarray

    def pairs(self, features: np.ndarray) -> bool:
        """Whether row by row they are of the same noise as these."""
        return bool(self.tag) and len(features) == len(self.features)

    @property
    def words(self) -> str:
        count = f"{len(self.features):,}"
        return f"{count} pictures of the teacher" if self.tag else f"{count} real pictures"


def references(
    extract: Extractor,
    *,
    real: np.ndarray | None,
    teacher: np.ndarray | None,
    folder: Path | None,
    least: int = 2,
) -> tuple[Reference, ...]:
    """What there is to compare with. InputError for sets of fewer than `least` pictures."""
    sets = {"": real, "-T": teacher}
    for tag, images in sets.items():
        if images is not None and len(images) < least:
            whose = "teacher's" if tag else "real"
            raise InputError(f"{extract.name} needs {least} {whose} pictures, {len(images)} given")
    return tuple(
        Reference(tag, kept(extract, images, folder))
        for tag, images in sets.items()
        if images is not None
    )


def check_pictures(images: np.ndarray, prompts: Sequence[str]) -> None:
    """ValueError for what is not one picture uint8 "H W 3" for each prompt."""
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"pictures are {images.dtype} {images.shape}, not uint8 (n, H, W, 3)")
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} pictures of {len(prompts)} prompts")


def check_said(name: str, prompts: Sequence[str]) -> None:
    """InputError for an empty prompt, by which no picture can be scored."""
    empty = sum(not prompt.strip() for prompt in prompts)
    if empty:
        raise InputError(
            f"the judge {name} scores pictures by their prompts, and {empty} of {len(prompts)} are "
            f"empty: name other judges, as detail"
        )


def check_count(name: str, prompts: Sequence[str], least: int) -> None:
    """InputError for fewer prompts than a distance between sets needs pictures."""
    if len(prompts) < least:
        raise InputError(f"the judge {name} needs {least} pictures, {len(prompts)} are to be drawn")


def _precise(forward: Callable[[Params, Array], Array]) -> Callable[[Params, Array], Array]:
    """The jitted program, in whole fp32: the default of TPUs and GPUs multiplies in fewer bits."""

    def computed(params: Params, batch: Array) -> Array:
        with jax.default_matmul_precision("highest"):
            return forward(params, batch)

    return jax.jit(computed)
