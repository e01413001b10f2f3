"""The few types that every floor shares: batches, conditioning, and the error a user can mend.

Letters: b batch, h w c latent grid and channels, m text tokens, d text width, p pooled width.
"""

import dataclasses
import difflib
import importlib
import importlib.util
import itertools
import math
import os
import re
import traceback
from collections.abc import Collection
from typing import Annotated, Any, Protocol, TypeAlias

import flax.struct
import jax
import numpy as np

HostOrDevice: TypeAlias = jax.Array | np.ndarray
Params: TypeAlias = Any  # a nested dict of arrays
Metrics: TypeAlias = dict[str, jax.Array]  # "network/quantity" -> float32 scalar

CLOSE = 0.7  # of two words, from which on one may have been meant for the other


class InputError(ValueError):
    """Something the user can mend: one line that says what, where, and what to do (exit code 2)."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a config's field may have, as an annotation of its type.

    `above` leaves out `least` itself, `below` leaves out `most`. Steps are counted in 32 bits.
    """

    least: float
    most: float = 2**31 - 1
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        low = value > self.least if self.above else value >= self.least
        return low and (value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        low = f"more than {self.least:g}" if self.above else f"{self.least:g} or more"
        high = f"{'less than' if self.below else 'at most'} {self.most:.12g}"
        return low if self.most in (Range.most, math.inf) else f"{low}, {high}"


Count: TypeAlias = Annotated[int, Range(1)]
Whole: TypeAlias = Annotated[int, Range(0)]
Seed: TypeAlias = Annotated[int, Range(0, 2**32 - 1)]
Positive: TypeAlias = Annotated[float, Range(0, math.inf, above=True, below=True)]
Weight: TypeAlias = Annotated[float, Range(0, math.inf, below=True)]
Share: TypeAlias = Annotated[float, Range(0, 1)]
Decay: TypeAlias = Annotated[float, Range(0, 1, below=True)]  # at 1 nothing new would count


_NOT_OWN = (*map(os.path.dirname, (__file__, importlib.__file__)), "<frozen importlib")
_CODE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def check_text(text: str, name: str) -> None:
    """InputError for what is no text in UTF-8, as a shell of another encoding gives it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name} {text!a:.80} is no text in UTF-8: write it anew") from error


def parts_of(text: str) -> list[str]:
    """What a list with commas names; a pattern may have {a,b}."""
    return re.split(r",(?![^{]*\})", text)


def is_code(text: str) -> bool:
    """Whether a text names somebody's own code: "package.module:name", the package at hand."""
    found = _CODE.fullmatch(text)
    return bool(found) and importlib.util.find_spec(re.split(r"[.:]", text)[0]) is not None


def code_of(text: str, key: str) -> Any:
    """What "package.module:name" names. InputError, with the config's `key`, if it is not there."""
    module, _, name = text.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{key}: {text}: {error}; give package.module:name of code that is installed, or whose "
            "folder is in PYTHONPATH"
        ) from error
    except Exception as error:
        raise mistake(error, text, key) from error


def mistake(error: Exception, text: str, key: str) -> InputError:
    """What somebody's own code "package.module:name" raised, with the file and line that did."""
    if isinstance(error, InputError):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(_NOT_OWN)]
    places = [(f.filename, f.lineno) for f in own if f.filename == own[0].filename]
    if isinstance(error, SyntaxError):
        places = [(error.filename or "", error.lineno)]
    where = f"{places[-1][0]}, line {places[-1][1]}: " if places else ""
    return InputError(f"{key}: {text}: {where}{type(error).__name__}: {error}; mend the code")


def listed(names: Collection[str], *, most: int = 5, separator: str = ", ") -> str:
    """The first `most` of these, long ones cut, and how many more: a message stays one line."""
    first = separator.join(map(abridged, itertools.islice(names, most)))
    return first if len(names) <= most else f"{first}{separator}and {len(names) - most} more"


def abridged(name: str, most: int = 160) -> str:
    """A name of a file's own, cut in the middle where it is longer than any model's."""
    return name if len(name) <= most else f"{name[: most // 2]}...{name[-most // 2 :]}"


def one_line(message: str, most: int) -> str:
    """A message on one line of a terminal: what files have in their names moves no cursor."""
    line = " ".join(abridged(message, most).splitlines())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


@flax.struct.dataclass
class Tokens:
    """Token ids of one prompt batch for the three text encoders, int32 "b m" each."""

    clip_l: HostOrDevice
    clip_g: HostOrDevice
    t5: HostOrDevice


@flax.struct.dataclass
class Cond:
    """What the transformer is conditioned on: `text` is "b m d", `pooled` is "b p"."""

    text: jax.Array
    pooled: jax.Array


@flax.struct.dataclass
class Batch:
    """Clean latents "b h w c" in model space, and their captions: tokens, or encoded already.

    Captions without pictures have latents that are all 0, and `pictures` says so.
    """

    latents: HostOrDevice
    tokens: Any  # Tokens, or Cond where they are encoded
    pictures: bool = flax.struct.field(pytree_node=False, default=True)


class Constrain(Protocol):
    """Lays out an array on devices by the names of its dims, one name or None for each."""

    @property
    def rows(self) -> bool:
        """Whether products see batch and tokens as one dim.

        XLA's CPU compiler copies the gradient of a product with two such dims transposed before it
        sums over them: a fifth of the gradient. Where tokens are split, they stay a dim.
        """
        ...

    def __call__(self, x: jax.Array, *names: str | None) -> jax.Array: ...


class Unconstrained:
    """The identity `constrain`: models that run on one device use it."""

    @property
    def rows(self) -> bool:
        """On a CPU: others read the operands of gradients as they lie."""
        return jax.default_backend() == "cpu"

    def __call__(self, x: jax.Array, *names: str | None) -> jax.Array:
        del names
        return x


unconstrained = Unconstrained()


def nearest(word: str, known: Collection[str]) -> str | None:
    """What was probably meant by a word that nobody knows; None where nothing is close to it."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=CLOSE)), None)
