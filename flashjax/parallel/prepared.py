"""A jitted step whose programs are compiled before there is anything to call them with.

A program is made of shapes. To read a model's weights takes minutes, and so does to compile a step:
a thread of its own does the one while the main thread does the other.
"""

import concurrent.futures
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from flashjax.parallel import kept
from flashjax.parallel.compiling import COMPILING

Program: TypeAlias = "concurrent.futures.Future[Any]"

_begun: weakref.WeakSet[Program] = weakref.WeakSet()


class Prepared:
    """A jitted `step(state, *more, frozen, batch, key)`, called without the `more` that never move.

    It keeps a program for all batches of one shape. `check` is given the text of each, which has
    megabytes where the program is large, and may refuse it.
    """

    def __init__(self, step: Any, *more: Any, check: Callable[[str], None] | None = None) -> None:
        self._step, self._more, self._check = step, more, check
        self._programs: dict[Any, Program] = {}
        self._origin = ""

    def comes_from(self, origin: str) -> None:
        """Says all that the step is made of beside our code: its programs may be kept traced."""
        self._origin = origin

    def prepare(self, state: Any, frozen: Any, batch: Any, key: jax.Array) -> None:
        """Begins to compile for these arrays, or their shapes with shardings, and does not wait.

        What goes wrong is raised by the call that needs the program.
        """
        arguments = (state, *self._more, frozen, batch, key)
        thread = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        program = thread.submit(self._compile, *arguments)
        thread.shutdown(wait=False)
        self._programs[shapes_of(batch)] = program
        _begun.add(program)

    def __call__(self, state: Any, frozen: Any, batch: Any, key: jax.Array) -> Any:
        """The step itself; it waits for its program, which nobody may have begun yet."""
        if shapes_of(batch) not in self._programs:
            self.prepare(state, frozen, batch, key)
        with COMPILING.waited():
            program = self._programs[shapes_of(batch)].result()
        return program(state, *self._more, frozen, batch, key)

    def _compile(self, *arguments: Any) -> Any:
        with COMPILING.aside():
            program = kept.compiled(self._step, arguments, self._origin)
            if self._check:
                self._check(program.as_text())
        return program


def shapes_of(batch: Any) -> Any:
    """What batches have in common that one program takes."""
    leaves, structure = jax.tree.flatten(batch)
    return structure, *(leaf.shape for leaf in leaves)


def under_way() -> bool:
    """Whether a thread compiles yet: a process that ends in the usual way would wait for it."""
    return not all(program.done() for program in _begun)
