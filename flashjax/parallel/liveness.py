"""The most bytes that a function holds at once beside its arguments, from shapes alone.

Counted as runtimes for inference work: one operation after the other, each array freed after its
last use; elementwise chains are computed where they are used, and scores of attention never exist.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.interpreters.partial_eval import dce_jaxpr

# Operations that make arrays of their own; all others are computed where their result is used.
HEAVY = frozenset(
    "dot_general conv_general_dilated concatenate pad gather scatter dynamic_slice "
    "dynamic_update_slice scan while sort reduce_sum reduce_max reduce_min argmax cumsum".split()
)


def peak_bytes(function: Callable, *arguments: Any) -> int:
    """The peak of `function` on abstract `arguments`, its results included."""
    closed = jax.make_jaxpr(function)(*arguments)
    jaxpr, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return _peak(jaxpr)


def _peak(jaxpr: Jaxpr) -> int:
    """Bytes of what the equations make; what comes from outside counts there."""
    heavy = [_is_heavy(equation) for equation in jaxpr.eqns]
    users = Counter(var for equation in jaxpr.eqns for var in _inputs(equation))
    inputs_of_heavy = itertools.compress(map(_inputs, jaxpr.eqns), heavy)
    needs_array = {*itertools.chain(*inputs_of_heavy), *jaxpr.outvars}
    roots: dict[Any, frozenset] = {}  # what a variable is computed from, where it is used
    virtual: set[Any] = set()  # scores of attention, and what is made of them elementwise
    reads: list[frozenset] = []
    makes: list[dict[Any, int]] = []
    for equation, is_heavy in zip(jaxpr.eqns, heavy, strict=True):
        inputs = _inputs(equation)
        sources = frozenset().union(*(roots.get(var, frozenset()) for var in inputs))
        scores = _is_scores(equation) or (not is_heavy and not virtual.isdisjoint(inputs))
        made = {}
        for var in equation.outvars:
            if scores:
                virtual.add(var)
            if scores or not (is_heavy or users[var] != 1 or var in needs_array):
                roots[var] = sources
            else:
                roots[var], made[var] = frozenset([var]), _bytes(var)
        reads.append(sources)
        makes.append(made)
    last = {root: index for index, sources in enumerate(reads) for root in sources}
    last |= {root: len(reads) for v in jaxpr.outvars for root in _roots(roots, v)}
    inside = [
        max(map(_peak, _bodies(equation)), default=0) if is_heavy else 0
        for equation, is_heavy in zip(jaxpr.eqns, heavy, strict=True)
    ]
    return _highest(makes, inside, last)


def _highest(makes: list[dict[Any, int]], inside: list[int], last: dict[Any, int]) -> int:
    """The peak of what equations make and hold `inside`, each array living until its last use."""
    live: dict[Any, int] = {}
    highest = 0
    for index, (made, held) in enumerate(zip(makes, inside, strict=True)):
        highest = max(highest, sum(live.values()) + max(held, sum(made.values())))
        live |= made
        live = {var: size for var, size in live.items() if last.get(var, -1) > index}
    return highest


def _roots(roots: dict[Any, frozenset], var: Any) -> frozenset:
    return frozenset() if isinstance(var, Literal) else roots.get(var, frozenset())


def _inputs(equation: JaxprEqn) -> list[Any]:
    return [var for var in equation.invars if not isinstance(var, Literal)]


def _is_heavy(equation: JaxprEqn) -> bool:
    name = equation.primitive.name
    bodies = list(_bodies(equation))
    return name in HEAVY or any(_is_heavy(inner) for body in bodies for inner in body.eqns)


def _is_scores(equation: JaxprEqn) -> bool:
    """A product over batches that is larger than both of its factors together."""
    if equation.primitive.name != "dot_general":
        return False
    batched = bool(equation.params["dimension_numbers"][1][0])
    return batched and _bytes(equation.outvars[0]) > sum(map(_bytes, equation.invars))


def _bodies(equation: JaxprEqn) -> Iterator[Jaxpr]:
    for value in equation.params.values():
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value


def _bytes(var: Any) -> int:
    return math.prod(var.aval.shape) * var.aval.dtype.itemsize
