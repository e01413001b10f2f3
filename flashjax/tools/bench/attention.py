"""`bench attention`: every attention of this machine at one size, beside a plain product.

Numbers are compared first: outputs and gradients of each are held against the definition in
float32. Then all of them and the product take turns. Letters: b batch, n tokens, h heads, k head
width.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flashjax.models.layers import Attend
from flashjax.parallel.peak import SIDE, product
from flashjax.parallel.units import counted
from flashjax.stages.compute import DTYPES
from flashjax.tools.bench import matched, measuring
from flashjax.tools.bench.matched import Case
from flashjax.types import InputError

TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2}  # relative, of the norm of outputs and gradients
NARROW = ("cudnn", "float32")
LARGE = 8192  # side of an accelerator's product
PRODUCT = ("product", "", "")
FORWARD, GRADIENT = "forward", "and gradient"
PASSES = {FORWARD: 1, GRADIENT: 3}  # the gradient is counted as two; what is done again is not
CHECKED_HEADS = 2  # of one sample: what is compared with the definition


class Inputs(NamedTuple):
    """q, k, v and what the gradient of the output is, "b n h k" each."""

    q: Array
    k: Array
    v: Array
    out: Array


def run(size: str, *, config: str | None, overrides: list[str], rounds: int) -> dict[str, Any]:
    """Prints milliseconds, FLOP/s and share of the product's; returns them.

    InputError where an attention computes something else.
    """
    case = matched.case_of(size)
    measuring.check_rounds(rounds)
    dtype = matched.compute_with(config, overrides).dtype
    kernels = kernels_in(dtype)
    print(f"{case.name} on {jax.local_devices()[0].device_kind}, {dtype}", flush=True)
    errors = agreement(kernels, case, dtype)
    told = ", ".join(f"{kernel} {error:.1e}" for kernel, error in errors.items())
    print(f"  outputs and gradients differ from the definition by: {told}", flush=True)
    call, product_flops = product(*product_of(dtype))
    calls = {PRODUCT: call} | calls_of(kernels, case, dtype)
    spent = measuring.take_turns(calls, rounds)
    result = figures(case, spent, product_flops) | {"errors": errors, "dtype": dtype}
    print(table(result), flush=True)
    return result | {"rounds": rounds}


def kernels_in(dtype: str) -> dict[str, Attend]:
    """The attentions of this machine that compute in a dtype: cuDNN has no float32."""
    found = matched.kernels_here()
    return {name: kernel for name, kernel in found.items() if (name, dtype) != NARROW}


def product_of(dtype: str) -> tuple[int, jnp.dtype]:
    """Side and dtype of the product that the peak is measured with."""
    return (SIDE if jax.default_backend() == "cpu" else LARGE), DTYPES[dtype]


def tokens_of(case: Case) -> dict[str, int]:
    """The sequences of a size: picture and text together, and where blocks are dual the picture."""
    image = (case.side // case.sizes.patch) ** 2
    return {"joint": image + case.text} | ({"image": image} if case.sizes.dual else {})


@functools.partial(jax.jit, static_argnums=(0, 1))
def random_inputs(shape: tuple[int, int, int, int], dtype: str) -> Inputs:
    """Normal numbers."""
    keys = jax.random.split(jax.random.key(0), len(Inputs._fields))
    return Inputs(*(jax.random.normal(key, shape, DTYPES[dtype]) for key in keys))


def definition(q: Array, k: Array, v: Array) -> Array:
    """softmax(q k / sqrt(k)) v in float32, over "b n h k"."""
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    scores = jnp.einsum("bnhk,bmhk->bhnm", q, k) / jnp.sqrt(q.shape[-1])
    return jnp.einsum("bhnm,bmhk->bnhk", jax.nn.softmax(scores), v)


def both(kernel: Attend, inputs: Inputs) -> tuple[Array, tuple[Array, ...]]:
    """The output and the gradients of q, k and v."""
    out, pull = jax.vjp(kernel, *inputs[:3])
    return out, pull(inputs.out.astype(out.dtype))


def agreement(kernels: Mapping[str, Attend], case: Case, dtype: str) -> dict[str, float]:
    """The largest relative difference of each kernel from the definition, at all sequences.

    InputError beyond TOLERANCE: what computes something else is not timed.
    """
    found: dict[str, list[float]] = {name: [] for name in kernels}
    for number in tokens_of(case).values():
        heads = min(case.sizes.heads, CHECKED_HEADS)
        inputs = random_inputs((1, number, heads, case.sizes.head_width), dtype)
        with jax.default_matmul_precision("highest"):
            right = jax.jit(functools.partial(both, definition))(inputs)
            for name, kernel in kernels.items():
                program = jax.jit(functools.partial(both, kernel))
                found[name].append(difference(program(inputs), right))
    errors = {name: float(np.max(each)) for name, each in found.items()}  # NaN stays
    for name, error in errors.items():
        if not error <= TOLERANCE[dtype]:
            raise InputError(
                f"bench attention: {name} differs from the definition by {error:.1e}, more than "
                f"{TOLERANCE[dtype]}: it computes something else here"
            )
    return errors


def difference(found: Any, right: Any) -> float:
    """The largest relative difference of the norms of some arrays; NaN where a number is none."""

    def relative(x: Array, y: Array) -> Array:
        y = y.astype(jnp.float32)
        return jnp.linalg.norm((x.astype(jnp.float32) - y).ravel()) / jnp.linalg.norm(y.ravel())

    return float(jnp.stack(jax.tree.leaves(jax.tree.map(relative, found, right))).max())


Calls = dict[tuple[str, str, str], Callable[[], Any]]  # by sequence, kernel and part


def calls_of(kernels: Mapping[str, Attend], case: Case, dtype: str) -> Calls:
    """Each kernel at each sequence: forward, and with the gradient."""
    calls: Calls = {}
    for sequence, number in tokens_of(case).items():
        shape = (case.batch, number, case.sizes.heads, case.sizes.head_width)
        inputs = random_inputs(shape, dtype)
        for name, kernel in kernels.items():
            forward = jax.jit(lambda inputs, kernel=kernel: kernel(*inputs[:3]))
            gradient = jax.jit(functools.partial(both, kernel))
            calls[sequence, name, FORWARD] = waited(forward, inputs)
            calls[sequence, name, GRADIENT] = waited(gradient, inputs)
    return calls


def waited(program: Any, inputs: Inputs) -> Callable[[], Any]:
    """A call that is over when the device is done."""
    return lambda: jax.block_until_ready(program(inputs))


def figures(
    case: Case, spent: Mapping[tuple[str, str, str], measuring.Spent], product_flops: float
) -> dict[str, Any]:
    """A row for each sequence, kernel and part, as shares of the product's FLOP/s."""
    peak = product_flops / spent[PRODUCT].median
    tokens, rows = tokens_of(case), []
    for (sequence, kernel, part), took in spent.items():
        if sequence not in tokens:
            continue
        forward = 4.0 * case.batch * tokens[sequence] ** 2 * case.sizes.width
        rate = PASSES[part] * forward / took.median
        rows.append(
            {
                "sequence": sequence,
                "tokens": tokens[sequence],
                "kernel": kernel,
                "part": part,
                "seconds": took.median,
                "flops_per_second": rate,
                "share_of_product": rate / peak,
                "times_as_fast_as_xla": spent[sequence, "xla", part].median / took.median,
            }
        )
    heads = {"heads": case.sizes.heads, "head_width": case.sizes.head_width}
    return {"size": case.name, "batch": case.batch, **heads, "product": peak, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """A line for each row, the product first."""
    head = ["tokens", "kernel", "part", "ms", "speed", "of the product", "x xla"]
    first = ["", "product", "", "", counted(result["product"], "FLOP/s"), "", ""]
    rows = [
        [
            f"{row['sequence']} {row['tokens']}",
            row["kernel"],
            row["part"],
            f"{1000 * row['seconds']:.3f}",
            counted(row["flops_per_second"], "FLOP/s"),
            f"{100 * row['share_of_product']:.0f} %",
            f"{row['times_as_fast_as_xla']:.2f}",
        ]
        for row in result["rows"]
    ]
    return measuring.table(head, [first, *rows])
