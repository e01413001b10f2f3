"""`bench convert`: a random checkpoint of true size, read, exported, drawn with: timed and weighed.

Every measured part is a process of its own, whose peak memory and read bytes the kernel counts.
"""

import argparse
import dataclasses
import filecmp
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flashjax.convert.sai import PREFIXES, model_spec, read_parts
from flashjax.convert.table import Placement
from flashjax.convert.tensors import Info, Tensors
from flashjax.convert.transformer import transformer_rows
from flashjax.convert.writing import write_safetensors
from flashjax.evaluate.sample import frugal
from flashjax.models.mmdit import MMDiT, MMDiTConfig, velocity_of
from flashjax.models.parameters import as_bits
from flashjax.models.variants import MMDIT
from flashjax.parallel.layout import MMDIT as RULES
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.sharding import param_shardings
from flashjax.tools.bench.measuring import counted
from flashjax.tools.export import convert
from flashjax.types import Cond, InputError, Params

PROCESSES = 2
LATENTS, TEXT_TOKENS = (32, 32), 154  # 256 px; tokens of two prompts
FLOAT16 = np.dtype(np.float16)


def run(model: str, workdir: Path) -> dict[str, Any]:
    """Prints and returns seconds, GB/s, and peak memory and read bytes as ratios to the file."""
    if model not in MMDIT:
        raise InputError(f"--model {model} is unknown: choose of {', '.join(MMDIT)}")
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{model}.", dir=workdir) as scratch:
        return {"model": model, "rows": run_in(Path(scratch), model)}


def run_in(workdir: Path, model: str) -> list[dict[str, Any]]:
    """All parts, one after the other, in a folder of their own; a row for each."""
    source = workdir / f"{model}.safetensors"
    seconds = write_random(source, model)
    size = source.stat().st_size
    print(f"{source}: {len(random_tensors(model))} tensors, {size / 1e9:.2f} GB, F16")
    rows = [report("write, prove", seconds, size)]

    there, back = workdir / "there", workdir / "back"
    outcome = measured("export", source, there, "sai,diffusers")
    rows.append(report("import, export to both layouts, prove", outcome["seconds"], size, outcome))
    same("single file", source, there / "model.safetensors")
    outcome = measured("export", there / "diffusers" / "transformer", back, "sai")
    rows.append(report("diffusers folder to single file, prove", outcome["seconds"], size, outcome))
    # The folder has no metadata of the single file: its tensors must be the same.
    same("tensors from the diffusers folder", source, back / "model.safetensors", data_only=True)
    outcome = measured("load", source)
    rows.append(report("import alone", outcome["seconds"], size, outcome))
    outcome = measured("draw", source)
    rows.append(report("import, one step of a picture", outcome["seconds"], size, outcome))
    for outcome in measured_together(source):
        what = f"import, one of {PROCESSES} processes"
        rows.append(report(what, outcome["seconds"], size, outcome))
    return rows


def random_tensors(model: str) -> Tensors:
    """Numbers between 1/64 and 1/32 of either sign under the model's own names."""
    config = MMDIT[model]
    infos = {
        key: Info(row.shape, FLOAT16) for row in transformer_rows(config, "sai") for key in row.keys
    }

    def piece(name: str, start: int, stop: int) -> np.ndarray:
        seed = int.from_bytes(name.encode(), "little") % 2**63
        bits = np.random.default_rng(seed).integers(0, 2**16, infos[name].size, np.uint16)
        return ((bits & 0x83FF) | 0x2400).view(np.float16)[start:stop]

    return Tensors(model, infos, piece).prefixed(PREFIXES["transformer"])


def write_random(path: Path, model: str) -> float:
    """Writes the checkpoint; returns the seconds it took."""
    started = time.perf_counter()
    metadata = model_spec(MMDIT[model], title=f"random {model}", side=1024)
    write_safetensors(path, random_tensors(model), metadata=metadata)
    return time.perf_counter() - started


def measured(what: str, *arguments: object) -> dict[str, Any]:
    """Runs one part in a process of its own; returns what it measured of itself."""
    return finished(started_part(what, *arguments))


def measured_together(source: Path) -> list[dict[str, Any]]:
    """Imports with several processes, each a host of one sharded program."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    parts = [started_part("load", source, port, rank) for rank in range(PROCESSES)]
    return [finished(part) for part in parts]


def started_part(what: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", __name__, what, *map(str, arguments)]
    # One device each, whatever this process simulates.
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def finished(part: subprocess.Popen) -> dict[str, Any]:
    output, _ = part.communicate()
    if part.returncode:
        raise RuntimeError(f"{part.args!r} failed with exit code {part.returncode}")
    return json.loads(output.splitlines()[-1])


def export(source: str, out: str, formats: str) -> None:
    """`flashjax export` in this process."""
    convert(Path(source), Path(out), formats=formats.split(","))


def load(source: str, port: str = "", rank: str = "") -> tuple[Params, MMDiTConfig]:
    """Imports the transformer, sharded over all processes if there are several."""
    if port:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", PROCESSES, int(rank))
    mesh = make_mesh({"fsdp": -1})
    placement = Placement(None, lambda abstract: param_shardings(abstract, RULES, mesh))
    parts = read_parts(source, place=lambda _: placement)
    return jax.block_until_ready(parts)["transformer"]


def draw(source: str) -> None:
    """Imports the transformer and takes one step of `LATENTS`, as `flashjax sample` would."""
    params, config = load(source)
    cond = Cond(
        text=jnp.zeros((1, TEXT_TOKENS, config.text_width)),
        pooled=jnp.zeros((1, config.pooled_width)),
    )
    x = jnp.zeros((1, *LATENTS, config.channels))
    velocity = velocity_of(MMDiT(dataclasses.replace(config, dtype=jnp.float32)))
    step = jax.jit(velocity, compiler_options=frugal(config))
    jax.block_until_ready(step(as_bits(params), x, jnp.ones(1), cond))


def same(what: str, one: Path, other: Path, *, data_only: bool = False) -> None:
    """Compares two files byte for byte; RuntimeError if they differ."""
    if data_only:
        equal = np.array_equal(data_of(one), data_of(other))
    else:
        equal = filecmp.cmp(one, other, shallow=False)
    if not equal:
        raise RuntimeError(f"{what}: {other} is not {one}")
    print(f"  {what}: byte for byte the same")


def data_of(path: Path) -> np.ndarray:
    """The bytes of a safetensors file after its header, mapped."""
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
    return np.memmap(path, np.uint8, "r", start)


def report(
    what: str, seconds: float, size: int, outcome: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One line of figures; returns them."""
    line = f"{what}: {seconds:.1f} s, {size / seconds / 1e9:.2f} GB/s of the file"
    if outcome:
        line += (
            f", peak memory {outcome['peak_bytes'] / size:.2f} of the file "
            f"({outcome['idle_bytes'] / 1e9:.2f} GB of it before it began)"
            f", read {outcome['read_bytes'] / size:.2f} of it"
        )
    print(line, flush=True)
    return {"part": what, "file_bytes": size, **(outcome or {}), "seconds": seconds}


def main() -> None:
    """One measured part: runs it and prints what the kernel counted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=PARTS)
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args()
    before, idle = counted("/proc/self/io", "rchar"), counted("/proc/self/status", "VmHWM")
    started = time.perf_counter()
    PARTS[options.what](*options.arguments)
    seconds = time.perf_counter() - started
    print(
        json.dumps(
            {
                "seconds": seconds,
                "peak_bytes": 1024 * counted("/proc/self/status", "VmHWM"),
                "idle_bytes": 1024 * idle,
                "read_bytes": counted("/proc/self/io", "rchar") - before,
            }
        )
    )


PARTS: dict[str, Callable[..., Any]] = {"export": export, "load": load, "draw": draw}


if __name__ == "__main__":
    main()
