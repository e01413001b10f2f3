"""What every fuzzer shares: how many mutants, and what a load of one may come to.

A mutant is loaded, with values that are then compared, or refused in one line. Nothing else may
happen: no other exception, no more time or memory than its size explains. Examples are drawn from a
fixed seed; FUZZ=1000 draws so many of each kind.
"""

import copy
import json
import os
import resource
import time
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from flashjax.cli import LONGEST
from flashjax.types import InputError, one_line

EXAMPLES = int(os.environ.get("FUZZ", "50"))
SECONDS = 5.0  # of one mutant on a busy machine; the whole files load in a tenth
LONGEST_KEPT = 200_000  # characters of a message before it is cut
MEGABYTES = 400  # by which a process may grow over all mutants of a kind

settings.register_profile(
    "mutants",
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),  # what fails is a file of some hundred bytes
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("mutants")


@pytest.fixture(scope="session")
def outcome():
    """`outcome(load)`: what `load()` gives, or None where it is refused in one line."""

    def run(load):
        started = time.monotonic()
        try:
            return load()
        except InputError as error:
            for message in error.args:  # of a config, one for each value
                line = one_line(message, LONGEST)
                assert line.strip() and line.isprintable() and len(message) < LONGEST_KEPT
            return None
        finally:
            assert time.monotonic() - started < SECONDS

    return run


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
    """No mutant of a kind makes the process much larger than it was."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < MEGABYTES * 1024, f"{grown / 1024:.0f} MB more"


NUMBERS = [0, 1, 2, 7, 8, 32, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
JUNK = st.one_of(
    st.sampled_from([None, True, False, "", [], {}, -1, 0.5, 1e308, float("nan"), float("inf")]),
    st.sampled_from(NUMBERS),
    st.sampled_from(["a", "../x", "/etc/passwd", "\0", "é" * 50, "9" * 5000, "F32", "latents"]),
    st.lists(st.integers(-3, 9), max_size=4),
    st.dictionaries(st.sampled_from(["a", "shape", "dtype"]), st.integers(0, 9), max_size=2),
)


@st.composite
def bytes_of(draw, whole, *, head=None):
    """The bytes `whole` after up to four changes, most of them in the first `head`."""
    found = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        size = len(found)
        within = size if head is None or not draw(st.integers(0, 3)) else min(head, size)
        at = draw(st.integers(0, max(0, within - 1)))
        kind = draw(st.sampled_from("flip set number cut insert remove repeat append".split()))
        if kind == "flip" and size:
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set" and size:
            found[at] = draw(st.integers(0, 255))
        elif kind == "number":
            width = draw(st.sampled_from([4, 8]))
            found[at : at + width] = (draw(st.sampled_from(NUMBERS)) % 256**width).to_bytes(
                width, "little"
            )
        elif kind == "cut":
            del found[at:]
        elif kind == "insert":
            found[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif kind == "remove":
            del found[at : at + draw(st.integers(1, 64))]
        elif kind == "repeat":
            found[at:at] = found[at : at + draw(st.integers(1, 200))]
        elif kind == "append":
            found += draw(st.binary(min_size=1, max_size=40))
    return bytes(found)


@st.composite
def objects_of(draw, whole):
    """A JSON value after up to three changes somewhere in it."""
    found = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        parent, key = draw(st.sampled_from(list(_places(found))))
        if parent is None:
            found = draw(JUNK) if not draw(st.integers(0, 9)) else found
            continue
        kind = draw(st.sampled_from("junk junk junk number drop rename nest".split()))
        if kind == "drop":
            del parent[key]
        elif kind == "rename" and isinstance(parent, dict):
            parent[f"{key}x"] = parent.pop(key)
        elif kind == "number" and type(parent[key]) in (int, float):
            parent[key] = parent[key] + draw(st.sampled_from([-1, 1, 8, -64, 0.5, 2**31]))
        elif kind == "nest":
            parent[key] = [parent[key]]
        else:
            parent[key] = draw(JUNK)
    return found


def _places(value, parent=None, key=None):
    """Every (container, key) of a value; (None, None) is the value itself."""
    yield parent, key
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for name, child in list(items)[:40]:
        yield from _places(child, value, name)


@st.composite
def json_of(draw, whole):
    """The text of a JSON file: an object that was changed, now and then bytes that were."""
    if draw(st.integers(0, 3)):
        return json.dumps(draw(objects_of(whole))).encode()
    text = json.dumps(whole).encode()
    return draw(st.one_of(bytes_of(text), st.just(b"[" * 100_000), st.just(b"\xef\xbb\xbf" + text)))


@pytest.fixture(scope="session")
def mutants():
    """The strategies: `bytes_of`, `objects_of` and `json_of` something whole."""
    return SimpleNamespace(bytes_of=bytes_of, objects_of=objects_of, json_of=json_of)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder for the mutants of a file."""
    return tmp_path_factory.mktemp("mutants")
