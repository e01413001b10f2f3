"""One program compiled and read: memory, operations, collectives, kernels, seconds."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from flashjax.parallel import hlo


@dataclasses.dataclass(frozen=True)
class Program:
    """What the compiler says of one program, per device; sizes in bytes.

    `compile_seconds` are of the processor, all threads together, whatever else it does.
    `error` is its own line where it found no room; then there is nothing else to say.
    """

    name: str
    compile_seconds: float
    error: str = ""
    argument_bytes: int = 0
    output_bytes: int = 0  # beside what is donated
    temporary_bytes: int = 0
    code_bytes: int = 0
    compiled_flops: float = 0.0  # XLA's count: the body of a loop counts once
    compiled_bytes: float = 0.0
    collectives: tuple[hlo.Collective, ...] = ()
    kernels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    loops: Mapping[str, int] = dataclasses.field(default_factory=dict)


def compile_program(
    name: str,
    step: Any,
    arguments: tuple,
    mesh: Mesh,
    *,
    trips: float,
    options: Mapping[str, str] | None = None,
    island: int = 0,
) -> tuple[Program, str]:
    """Compiles a jitted `step` on abstract arguments; the program and its HLO text.

    `trips` is the mean number of runs of loops of unknown length, `options` are the compiler's,
    `island` the number of devices that fast links join, where the devices do not know.
    """
    started = time.process_time()
    try:
        compiled = step.lower(*arguments).compile(compiler_options=dict(options or {}))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) or "space vmem" in str(error):
            raise  # VMEM is the compiler's affair: HBM is what a program may not fit
        seconds = round(time.process_time() - started, 1)
        return Program(name, seconds, error=_first_lines(error)), ""
    seconds = round(time.process_time() - started, 1)
    text = compiled.as_text()
    program = read_program(name, compiled, text, mesh, trips=trips, island=island)
    return dataclasses.replace(program, compile_seconds=seconds), text


def read_program(
    name: str, compiled: Any, text: str, mesh: Mesh, *, trips: float, island: int = 0
) -> Program:
    """What a compiled program and its HLO text say; see `compile_program`."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return Program(
        name=name,
        compile_seconds=0.0,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        compiled_flops=cost.get("flops", 0.0),
        compiled_bytes=cost.get("bytes accessed", 0.0),
        collectives=tuple(hlo.collectives(text, mesh, unknown_trips=trips, island=island)),
        kernels=dict(hlo.kernels(text)),
        loops=dict(hlo.loops(text)),
    )


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
