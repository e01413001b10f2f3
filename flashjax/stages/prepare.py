"""`prepare`: pictures and captions to a cache of latents and tokens, on all processes.

A plan says which sample goes to which shard. A shard that is there is not made again, so a
preparation that was stopped goes on, with any number of processes.
"""

import dataclasses
import hashlib
import json
import logging
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.data.buckets import Size, bucket_of, fitted
from flashjax.data.cache import EMPTY, Bucket, Cache, pack, read_cache, write_shard
from flashjax.data.config import DataConfig
from flashjax.data.jsons import read_json
from flashjax.data.samples import Sample, Samples, Unreadable
from flashjax.data.selection import weighed_again
from flashjax.parallel.hosts import is_first, meet
from flashjax.parallel.watch import alive
from flashjax.stages import draw
from flashjax.stages.encoding import Encoder, open_encoder
from flashjax.stages.model import read_model
from flashjax.stages.registry import open_samples
from flashjax.stages.stage import run_stage, write_json
from flashjax.types import InputError, Whole

SHARD = 1024  # samples of a shard
BUCKET = r"captions|[1-9]\d{0,5}x[1-9]\d{0,5}"  # how they are called
CAPTIONS = "captions"  # the bucket of what has no picture
PLAN, SKIPPED, DUPLICATES = "plan.json", "skipped.jsonl", "duplicates.jsonl"
HEADROOM = 1.05  # of the bytes that are predicted: indices of shards, sidecars

log = logging.getLogger(__name__)


def section_of(config: ConfigDict) -> dict[str, Any]:
    """All of a config that the stage depends on."""
    return dataclasses.asdict(configs.section(config, "data", DataConfig))


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Opens the data and caches what the encoders make of the training split."""
    data = configs.section(config, "data", DataConfig)
    draw.run(config, workdir)

    def body(folder: Path) -> dict[str, Any]:
        encoder, made, side = open_encoder(config, workdir, data)
        # A task may have to make its samples: one does, the others read them.
        samples = open_samples(config, workdir / "data") if is_first() else None
        meet("the data is there")
        samples = samples or open_samples(config, workdir / "data")
        side, longest = data.size or side, longest_side(workdir)
        train = samples["train"]
        cache = prepare(train, folder, encoder, made, data=data, side=side, longest=longest)
        held = len(samples["validation"])
        return {"train": cache.counts["kept"], "validation": held, "counts": dict(cache.counts)}

    return run_stage(
        "prepare",
        section_of(config),
        workdir,
        body,
        inputs={"import": workdir / "import"},
        seed=config.seed,
    )


def prepare(
    samples: Samples,
    folder: Path,
    encoder: Encoder,
    made: Mapping[str, Any],
    *,
    data: DataConfig,
    side: int,
    longest: float = math.inf,
) -> Cache:
    """Writes the cache of samples into a folder; `made` is what its model must have in common.

    No side of a bucket is longer than `longest` pixels, the places of the model.
    InputError for samples of which none can be used, or a disk that is too small.
    """
    if is_first() and not (folder / PLAN).is_file():
        write_json(folder / PLAN, make_plan(samples, side, data, longest=longest))
    meet("the cache is planned")
    plan = read_plan(folder / PLAN, samples)
    shards = list(planned_shards(plan))
    fields = {name: encoder.fields(size_of(name)) for name in plan["buckets"]}
    left: Counter[str] = Counter()
    for name, file, chosen in shards:
        left[name] += 0 if (folder / f"{file}.json").is_file() else len(chosen)
    check_space(folder, {name: (fields[name], left[name]) for name in fields})
    meet("there is room")  # or a late process takes the shards of others for what was there
    mine = shards[jax.process_index() :: jax.process_count()]
    for done, (name, file, chosen) in enumerate(mine):
        if not (folder / f"{file}.json").is_file():
            alive(f"shard {file}, {done + 1} of {len(mine)}")
            make_shard(samples, folder, encoder, fields[name], data, name, file, chosen)
            log.info("prepare: %d of %d shards", done + 1, len(mine))
    meet("all shards are there")
    cache = gather(samples, folder, encoder, made, plan, shards, smallest=data.smallest)
    if is_first():
        write_shard(folder / EMPTY, pack(encoder.empty, encoder.fields(None)))
        cache.write(folder)
    return cache


def check_unchanged(workdir: Path, train: Samples) -> Cache:
    """What `prepare` left. InputError where it was made of other samples than there are now."""
    cache = read_cache(workdir / "prepare")
    if cache.samples.get("digest") != train.digest:
        raise InputError(
            f"data.source has changed since `prepare`: students learn what was there then, and of "
            f"what is held out now some may have been learnt; bring it back, or run in another "
            f"workdir ({workdir / 'prepare'})"
        )
    return cache


def longest_side(workdir: Path) -> int:
    """The pixels of a side that the model of a run has places for."""
    model = read_model(workdir)
    return model.transformer.patch * model.transformer.position_size * model.vae.factor


def make_plan(
    samples: Samples, side: int, data: DataConfig, *, longest: float = math.inf
) -> dict[str, Any]:
    """Every sample by bucket, from headers of pictures, and what is left out with its reason."""
    buckets: dict[str, list[int]] = {}
    skipped: list[tuple[int, str]] = []
    for index in range(len(samples)):
        if index % SHARD == 0:
            alive(f"looks at sample {index} of {len(samples)}")
        try:
            size = samples.size(index)
        except Unreadable as error:
            skipped.append((index, str(error)))
            continue
        bucket = None
        if size is not None:
            bucket = bucket_of(size, side, upscale=data.upscale, longest=longest)
        if size is not None and bucket is None:
            skipped.append((index, f"sample {index}: {size[1]} x {size[0]} pixels are too few"))
            continue
        buckets.setdefault(bucket_name(bucket), []).append(index)
    for name in [name for name, indices in buckets.items() if len(indices) < data.smallest]:
        skipped += too_few(name, buckets.pop(name), data.smallest)
    if not buckets:
        reason = skipped[0][1] if skipped else "there is no sample"
        raise InputError(
            f"data.source: none of {len(samples)} samples can be used ({reason}); pictures of at "
            f"least {math.ceil(side / data.upscale)} pixels a side are needed at data.size={side}"
        )
    return {"digest": samples.digest, "buckets": buckets, "skipped": skipped}


def too_few(name: str, indices: Sequence[int], smallest: int) -> list[tuple[int, str]]:
    """Why the samples of a bucket that has fewer than `smallest` are left out."""
    why = f"bucket {name} has {len(indices)} samples, fewer than data.smallest={smallest}"
    return [(index, why) for index in indices]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `make_plan` leaves: every sample is in one bucket, or is left out."""

    digest: str
    buckets: Mapping[str, tuple[Whole, ...]]
    skipped: tuple[tuple[Whole, str], ...]

    def __post_init__(self) -> None:
        if wrong := [name for name in self.buckets if not re.fullmatch(BUCKET, name)]:
            raise InputError(f"{wrong[0]} is no bucket")

    @property
    def samples(self) -> list[int]:
        """The numbers of all samples, sorted."""
        kept = [number for part in self.buckets.values() for number in part]
        return sorted(kept + [number for number, _ in self.skipped])


@dataclasses.dataclass(frozen=True)
class Told:
    """What is known of a shard's samples: how many, which were left out, marks of pictures."""

    count: Whole
    skipped: tuple[tuple[Whole, str], ...]
    pictures: tuple[tuple[Whole, str], ...]


def read_plan(path: Path, samples: Samples) -> dict[str, Any]:
    """The plan of a cache that was begun. InputError if the samples have changed since."""
    plan = configs.record(read_json(path), str(path), Plan)
    if plan.digest != samples.digest or plan.samples != [*range(len(samples))]:
        raise InputError(
            f"{path.parent} was begun with other samples: use another --workdir or delete it"
        )
    return dataclasses.asdict(plan)


def bucket_name(size: Size | None) -> str:
    """ "HxW" in pixels."""
    return CAPTIONS if size is None else f"{size[0]}x{size[1]}"


def size_of(name: str) -> Size | None:
    """The size that `bucket_name` named."""
    if name == CAPTIONS:
        return None
    height, width = map(int, name.split("x"))
    return height, width


def planned_shards(plan: Mapping[str, Any]) -> Iterator[tuple[str, str, list[int]]]:
    """Bucket, file and samples of every shard, in the order of the buckets' names."""
    for name, indices in sorted(plan["buckets"].items()):
        for number, start in enumerate(range(0, len(indices), SHARD)):
            yield name, f"{name}-{number:05}.array_record", indices[start : start + SHARD]


def check_space(folder: Path, buckets: Mapping[str, tuple[Mapping[str, Any], int]]) -> None:
    """Says how many bytes are to be written. InputError for a disk that has no room for them."""
    need = sum(
        sum(field.nbytes for field in fields.values()) * count for fields, count in buckets.values()
    )
    free = shutil.disk_usage(folder).free
    log.info("prepare: a cache of %.3g GB, %.3g GB are free", need / 1e9, free / 1e9)
    if need * HEADROOM > free:
        raise InputError(
            f"{folder}: the cache takes {need / 1e9:.3g} GB and {free / 1e9:.3g} GB are free: free "
            f"some, choose another --workdir, or keep less (data.train, data.dtype, data.text)"
        )


def make_shard(
    samples: Samples,
    folder: Path,
    encoder: Encoder,
    fields: Mapping[str, Any],
    data: DataConfig,
    name: str,
    file: str,
    chosen: Sequence[int],
) -> None:
    """Encodes the samples of one shard and writes it, then what is known of it beside it."""
    size, read, skipped = size_of(name), [], []
    for index in chosen:
        try:
            read.append((index, samples[index]))
        except Unreadable as error:
            skipped.append((index, str(error)))
    if read:
        arrays = encoder.texts([sample.caption for _, sample in read])
        if size is not None:
            images = [_fitted(index, sample, size, data) for index, sample in read]
            arrays |= encoder.latents(np.stack(images))
        write_shard(folder / file, pack(arrays, fields))
    marks = [
        (index, mark_of(sample))
        for index, sample in read
        if sample.image is not None and not weighed_again(samples, index)
    ]
    write_json(folder / f"{file}.json", {"count": len(read), "skipped": skipped, "pictures": marks})


def _fitted(index: int, sample: Sample, size: Size, data: DataConfig) -> np.ndarray:
    assert sample.image is not None  # samples with a size have a picture
    return fitted(sample.image, size, crop=data.crop, seed=(data.seed, index))


def mark_of(sample: Sample) -> str:
    """What equal pictures have in common."""
    image = np.ascontiguousarray(sample.image)
    return hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()[:16]


def gather(
    samples: Samples,
    folder: Path,
    encoder: Encoder,
    made: Mapping[str, Any],
    plan: Mapping[str, Any],
    shards: Sequence[tuple[str, str, list[int]]],
    *,
    smallest: int,
) -> Cache:
    """The manifest of all shards; what was left out and what is there twice is listed and said.

    A bucket of which fewer than `smallest` samples could be read is left out, too.
    """
    paths = {file: folder / f"{file}.json" for _, file, _ in shards}
    told = {
        file: dataclasses.asdict(configs.record(read_json(path), str(path), Told))
        for file, path in paths.items()
    }
    skipped = [*plan["skipped"], *(entry for found in told.values() for entry in found["skipped"])]
    lost = {index for index, _ in skipped}
    buckets = []
    for name, indices in sorted(plan["buckets"].items()):
        read = [index for index in indices if index not in lost]
        if len(read) < smallest:
            skipped += too_few(name, read, smallest)
            continue
        files = [file for bucket, file, _ in shards if bucket == name and told[file]["count"]]
        size = size_of(name)
        shape = encoder.shape(size or (made["side"], made["side"]))
        buckets.append(Bucket(name, shape, encoder.fields(size), files, len(read)))
    marks = Counter(mark for found in told.values() for _, mark in found["pictures"])
    doubled = {mark: number for mark, number in marks.items() if number > 1}
    if is_first():
        _list(folder / SKIPPED, [{"sample": index, "why": why} for index, why in skipped])
        groups: dict[str, list[int]] = {mark: [] for mark in doubled}
        for found in told.values():
            for index, mark in found["pictures"]:
                if mark in groups:
                    groups[mark].append(index)
        _list(folder / DUPLICATES, [{"samples": group} for group in groups.values()])
    if not buckets:
        raise InputError(f"data.source: no sample can be used, {folder / SKIPPED} says why")
    again = sum(doubled.values()) - len(doubled)
    counts = {
        "kept": sum(bucket.count for bucket in buckets),
        "skipped": len(skipped),
        "duplicates": again,
    }
    if skipped:
        log.warning("prepare: %d samples left out, see %s", len(skipped), folder / SKIPPED)
    if again:
        log.warning("prepare: %d pictures are there again, see %s", again, folder / DUPLICATES)
    return Cache({"name": samples.name, "digest": samples.digest}, made, tuple(buckets), counts)


def _list(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
