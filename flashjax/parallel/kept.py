"""Steps as they were traced, kept beside what they were compiled to: a warm start traces nothing.

JAX finds a compiled program by the text of the traced one, so that every start would trace a step
again: seconds of Python, under one lock. Here that text itself is kept, as StableHLO in JAX's own
portable format, under a digest of all that it comes from. A start that finds none makes it and
compiles from the same bytes: a run that was interrupted has the programs of an unbroken one.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax import export
from jax.sharding import NamedSharding

import flashjax
from flashjax.parallel import signals

SUFFIX = ".traced"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "ml_dtypes")  # whose code a trace reads
VARIABLES = ("XLA_", "JAX_", "LIBTPU_", "TF_", "NVIDIA_")  # in an environment, that change programs
_PLACES = "jax_compilation_cache_dir"  # of JAX's own settings the one that is no program's

log = logging.getLogger(__name__)


class _Where:
    """The folder of this process' programs; None keeps none."""

    folder: Path | None = None


def keep_in(folder: Path | None) -> None:
    """Has steps that say what they come from be kept in a folder, from now on; None stops it."""
    _Where.folder = folder


@dataclasses.dataclass(frozen=True)
class Traced:
    """A step's program before it is compiled.

    Attributes:
      exported: the program, of flat arguments; it returns the state's leaves, and metrics.
      donated: which of the arguments it may write into.
    """

    exported: export.Exported
    donated: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """A line that says what follows, and the program."""
        body = bytes(self.exported.serialize())
        head = {"donated": self.donated, "sha256": hashlib.sha256(body).hexdigest()}
        return json.dumps(head).encode() + b"\n" + body

    @staticmethod
    def from_bytes(data: bytes) -> "Traced":
        """The inverse. ValueError for what is damaged: it never comes to JAX's reader."""
        line, _, body = data.partition(b"\n")
        head = json.loads(line)
        if not isinstance(head, dict) or head.get("sha256") != hashlib.sha256(body).hexdigest():
            raise ValueError("it is not what was written")
        return Traced(export.deserialize(bytearray(body)), tuple(head["donated"]))


class Program:
    """A `Traced` that is compiled, to be called as the step is."""

    def __init__(self, compiled: Any, state: Any) -> None:
        self._compiled, self._state = compiled, state

    def __call__(self, *arguments: Any) -> Any:
        """What the step returns."""
        leaves, metrics = self._compiled(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(self._state, leaves), metrics

    def as_text(self) -> str:
        """The compiled program, as XLA writes it."""
        return str(self._compiled.as_text())


def compiled(step: Any, arguments: tuple[Any, ...], origin: str) -> Any:
    """A jitted `step(state, ...) -> (state, metrics)` compiled for arguments, or their shapes.

    `origin` is all that the step is made of beside its arguments and the code of this package;
    without it, without a folder, or of several processes nothing is kept. What the trace refuses is
    raised; what cannot be kept is said, and compiled as it is.
    """
    folder = _Where.folder if origin and jax.process_count() == 1 else None
    lowered = _lowered(step, arguments, origin, folder) if folder else None
    if lowered is None:
        return step.lower(*arguments).compile()
    return Program(lowered.compile(), jax.tree.structure(arguments[0]))


def _lowered(step: Any, arguments: tuple[Any, ...], origin: str, folder: Path) -> Any:
    """The lowered program that is kept, or is from now on; None where there can be none."""
    code = code_digest(Path(flashjax.__file__).parent, signals.STARTED)
    path = folder / f"{step.__name__}-{digest(code, origin, arguments)}{SUFFIX}" if code else None
    if path is None:
        log.info("%s is not kept: our code has changed since this start", step.__name__)
    traced = _read(path) if path else None
    told = None if traced else step.trace(*arguments)  # what it refuses is the caller's to hear
    try:
        if traced is None:
            data = portable(step, arguments, told).to_bytes()
            if path:
                _write(path, data)
            traced = Traced.from_bytes(data)  # as the next start will read it
        return lower(traced, arguments)
    except (ValueError, NotImplementedError, TypeError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        log.info("%s is traced at every start: %.200s", step.__name__, reason)
        return None


def portable(step: Any, arguments: tuple[Any, ...], told: Any) -> Traced:
    """A step in the form that is kept, `told` by its trace. ValueError and others for none.

    Trees are flat in it: JAX's format has no words for our types.
    """
    donated = [n for n, info in enumerate(jax.tree.leaves(told.args_info)) if info.donated]
    exported = export.export(step)(*arguments)
    after, metrics = jax.tree.unflatten(exported.out_tree, range(len(exported.out_avals)))
    state: Any = jax.tree.structure(arguments[0])
    if jax.tree.structure(after) != state:
        raise ValueError("the state that it returns has another form")
    flat = dataclasses.replace(
        exported,
        in_tree=jax.tree.structure((tuple(jax.tree.leaves(arguments)), {})),
        out_tree=jax.tree.structure((jax.tree.leaves(after), metrics)),
    )
    return Traced(flat, tuple(donated))


def lower(traced: Traced, arguments: tuple[Any, ...]) -> Any:
    """What is compiled: a call of the program, with the donations and the layout of the step."""
    leaves, exported = jax.tree.leaves(arguments), traced.exported

    def call(*leaves: Any) -> Any:
        return exported.call(*leaves)

    call.__name__ = exported.fun_name  # what logs and the cache of compiled programs call it
    shardings = _out_shardings(exported, leaves)
    jitted = jax.jit(call, donate_argnums=traced.donated, out_shardings=shardings)
    return jitted.lower(*leaves)


def digest(code: str, origin: str, arguments: tuple[Any, ...]) -> str:
    """Of all that a program comes from: code, arguments, versions, devices, settings."""
    leaves, structure = jax.tree.flatten(arguments)
    told = [code, origin, str(structure), *map(_leaf, leaves), *_surroundings()]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:32]


def code_digest(folder: Path, started: float) -> str:
    """Of every source file below a folder; "" if one is younger than this process.

    What was written since `started`, of the monotonic clock, may not be what was imported, or what
    will be: every step looks again. A file's ctime says when its contents came to be there, which
    tools that copy files cannot choose.
    """
    found, since = hashlib.sha256(), time.time() - (time.monotonic() - started)
    for path in sorted(folder.rglob("*.py")):
        if path.stat().st_ctime >= since:
            return ""
        found.update(f"{path.relative_to(folder)}\0".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def _leaf(leaf: Any) -> str:
    """What a program knows of an argument."""
    weak, sharding = getattr(leaf, "weak_type", False), getattr(leaf, "sharding", None)
    return f"{leaf.shape} {leaf.dtype} {weak} {sharding!r}"


def _surroundings() -> Iterator[str]:
    """What every program of this process comes from."""
    yield sys.version
    for package in PACKAGES:
        yield f"{package} {importlib.metadata.version(package)}"
    client = jax.devices()[0].client
    yield f"{client.platform} {client.platform_version}"
    yield from (f"{device.id} {device.device_kind}" for device in jax.devices())
    settings = {**jax.config.values, _PLACES: None}
    yield from (f"{name}={value!r}" for name, value in sorted(settings.items()))
    names = sorted(name for name in os.environ if name.startswith(VARIABLES))
    yield from (f"{name}={os.environ[name]}" for name in names)


def _out_shardings(exported: export.Exported, leaves: list[Any]) -> Any:
    """Where the results lie: on the mesh of the arguments, as they did when it was traced."""
    shardings = [getattr(leaf, "sharding", None) for leaf in leaves]
    meshes = [found.mesh for found in shardings if isinstance(found, NamedSharding)]
    if not meshes:
        return None
    return jax.tree.unflatten(exported.out_tree, exported.out_shardings_jax(meshes[0]))


def _read(path: Path) -> Traced | None:
    """What is kept there; None if it is nothing, or damaged: it is made again."""
    try:
        return Traced.from_bytes(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        log.info("%s is made again: %s", path, error)
        return None


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all; a disk that refuses costs the next start its time, and no more."""
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        log.info("%s is not kept: %s", path, error)
