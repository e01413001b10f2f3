"""`bench input`: samples a second from a cache of rows to the device, by the training's pipeline.

The cache is that of a prepared run, or a small one of random numbers in a temporary folder. Its
files have been written or read just before, so that the system has them in memory: what is measured
is the pipeline, not a disk. Captions of tokens are encoded by the steps, and not here.
"""

import contextlib
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from flashjax import trees
from flashjax.data.cache import (
    DTYPES,
    LATENTS,
    Bucket,
    Cache,
    Field,
    open_buckets,
    pack,
    read_cache,
    write_shard,
)
from flashjax.data.pipeline import Ahead, batches, rows_on, to_mesh
from flashjax.parallel.mesh import make_mesh, simulate_devices
from flashjax.parallel.units import counted, sized
from flashjax.tools import sections
from flashjax.tools.bench import matched, measuring
from flashjax.tools.plan.programs import abstract_setting, named_model
from flashjax.types import Batch, InputError

BATCHES = 8  # of a measured call
MOST_BYTES = 2**28  # of a made cache, if a batch is not more
MOST_SAMPLES = 4096
SHARD = 1024  # samples, as `prepare` makes them
PREPARE = "prepare"
ROWS, DEVICE = "rows to memory", "rows to device"


class Work(NamedTuple):
    """What is brought where: how many samples at a time, drawn in which order."""

    mesh: Mesh
    batch: int
    seed: int
    made: Batch  # shapes of one sample, "1 ...", of a cache that is made here


def run(
    size: str,
    *,
    config: str | None,
    overrides: list[str],
    workdir: str | None,
    rounds: int,
    step_seconds: float | None,
) -> dict[str, Any]:
    """Prints samples and bytes a second, and memory; returns them.

    With a config its mesh, its batch of `guide` and its kind of samples count, else those of the
    size. InputError for a workdir that is not prepared, and a batch that does not split.
    """
    measuring.check_rounds(rounds)
    if step_seconds is not None and not (math.isfinite(step_seconds) and step_seconds > 0):
        raise InputError(f"--step_seconds {step_seconds:g}: give more than 0")
    work = work_of(config, overrides) if config else work_of_size(size)
    rows_on(work.mesh, work.batch)
    with cache_of(work, workdir) as folder:
        result = measured(work, folder, rounds)
    result |= {"workdir": workdir, "config": config, "size": None if config else size}
    if step_seconds is not None:
        needed = work.batch / step_seconds
        times = result["rows"][-1]["samples_per_second"] / needed
        result |= {"step_seconds": step_seconds, "times_what_a_step_needs": times}
    print(table(result), flush=True)
    return result


def work_of(config: str, overrides: list[str]) -> Work:
    """Mesh, batch and samples of a config's `guide`."""
    loaded = sections.load(config, overrides)
    sections.check(loaded, "bench")
    simulate_devices(loaded.simulate_devices)
    mesh = make_mesh(loaded.mesh)
    (sample,) = abstract_setting(loaded, named_model(loaded), mesh).samples
    return Work(mesh, loaded.guide.job.batch_size, loaded.seed, sample)


def work_of_size(size: str) -> Work:
    """The batch of a size over all devices; captions are encoded and kept in bfloat16."""
    case = matched.case_of(size)
    batch, _ = jax.eval_shape(lambda: matched.random_batch(case))
    text = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, DTYPES["bfloat16"]), batch.tokens)
    return Work(make_mesh({"data": -1}), case.batch, 0, Batch(batch.latents, text))


@contextlib.contextmanager
def cache_of(work: Work, workdir: str | None) -> Iterator[Path]:
    """The folder of a run's cache, or of one that is made and goes with the block."""
    if workdir:
        yield Path(workdir) / PREPARE
        return
    with tempfile.TemporaryDirectory(prefix="flashjax-bench-") as scratch:
        make_cache(Path(scratch), work.made, work.batch)
        yield Path(scratch)


def make_cache(folder: Path, sample: Batch, batch: int) -> None:
    """Writes a cache of one bucket: random latents and embeddings, tokens that are all 0."""
    fields = fields_of(sample)
    record_bytes = sum(field.nbytes for field in fields.values())
    count = max(2 * batch, min(MOST_SAMPLES, MOST_BYTES // record_bytes))
    random = np.random.default_rng(0)
    shards: list[str] = []
    for start in range(0, count, SHARD):
        number = min(SHARD, count - start)
        arrays = {
            name: np.zeros((number, *field.shape), np.int32)
            if field.dtype == "int32"
            else random.standard_normal((number, *field.shape), np.float32)
            for name, field in fields.items()
        }
        shards.append(f"random-{len(shards):05}.array_record")
        write_shard(folder / shards[-1], pack(arrays, fields))
    high, wide, channels = sample.latents.shape[1:]
    bucket = Bucket("random", (high, wide, channels), fields, shards, count)
    Cache({}, {"kept": "random"}, (bucket,), {"kept": count}).write(folder)


def fields_of(sample: Batch) -> dict[str, Field]:
    """The fields of a record of such a sample."""
    kinds = {LATENTS: sample.latents} | trees.flatten(sample.tokens)
    return {name: Field(x.shape[1:], np.dtype(x.dtype).name) for name, x in kinds.items()}


def measured(work: Work, folder: Path, rounds: int) -> dict[str, Any]:
    """Samples and bytes a second from the records to memory and on to the devices."""
    cache = read_cache(folder)
    device = jax.local_devices()[0].device_kind
    print(f"{folder} to {work.mesh.size} x {device}", flush=True)
    with measuring.growing() as grown:
        started = time.perf_counter()
        data = open_buckets(folder, cache)
        opened = time.perf_counter() - started
        draw = batches(*data, batch_size=work.batch, seed=work.seed)
        alone = batches(*data, batch_size=work.batch, seed=work.seed + 1)
        ahead = Ahead(draw, lambda batch: to_mesh(batch, work.mesh))

        def to_memory() -> None:
            for _ in range(BATCHES):
                jax.tree.map(np.asarray, next(alone))

        def to_device() -> None:
            for _ in range(BATCHES):
                jax.block_until_ready(next(ahead))

        spent = measuring.take_turns({ROWS: to_memory, DEVICE: to_device}, rounds)
    sizes = [(bucket.count, bucket.record_bytes) for bucket in cache.buckets]
    samples = sum(count for count, _ in sizes)
    record_bytes = sum(count * nbytes for count, nbytes in sizes) / samples
    rates = {name: BATCHES * work.batch / took.median for name, took in spent.items()}
    return {
        "batch": work.batch,
        "mesh": dict(work.mesh.shape),
        "samples": samples,
        "record_bytes": record_bytes,
        "open_seconds": opened,
        "memory_grew_bytes": grown.nbytes,
        "rounds": rounds,
        "rows": [
            {
                "to": name,
                "samples_per_second": rate,
                "bytes_per_second": rate * record_bytes,
                "seconds_per_batch": work.batch / rate,
            }
            for name, rate in rates.items()
        ],
    }


def table(result: dict[str, Any]) -> str:
    """Rates, and the account of memory and of a step below them."""
    rows = [
        [
            row["to"],
            f"{row['samples_per_second']:.0f}",
            counted(row["bytes_per_second"], "B/s"),
            f"{1000 * row['seconds_per_batch']:.2f}",
        ]
        for row in result["rows"]
    ]
    head = f"batch {result['batch']}"
    lines = [measuring.table([head, "samples/s", "bytes", "ms a batch"], rows)]
    grew, batch_bytes = result["memory_grew_bytes"], result["batch"] * result["record_bytes"]
    told = f"  {result['samples']} samples of {sized(result['record_bytes'])}"
    if grew is not None:
        told += f"; memory grew by {sized(grew)}, {grew / batch_bytes:.1f} batches"
    lines.append(told)
    if "step_seconds" in result:
        times = result["times_what_a_step_needs"]
        lines.append(f"  a step of {result['step_seconds']:g} s needs 1/{times:.1f} of it")
    return "\n".join(lines)
