"""What the chips can do, from their makers' pages: the one table that estimates read.

Peaks are of one JAX device and dense, in bfloat16: a chip, but of tpu7x a half, of which each has
its own memory (`per_chip`). All pages were read in AS_OF.
`ici_bandwidth` is the sum over all links of a chip in one direction (NVLink on GPU),
`dcn_bandwidth` its share of its host's network. Prices, in dollars an hour, are round figures of
on-demand offers and no maker's: give your own with `--price`.
"""

import dataclasses
import re

AS_OF = "2026-11"
GIB, TERA, GIGA = 2**30, 1e12, 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
    """One JAX device: FLOP/s, bytes, bytes per second, dollars per hour, and where it is from."""

    name: str
    flops: float
    hbm_bytes: float
    hbm_bandwidth: float
    ici_bandwidth: float
    dcn_bandwidth: float
    price: float
    source: str
    island: int = 0  # devices that fast links join, where that is a host and not the slice
    per_chip: int = 1  # devices that a topology counts as one


_TPU = "docs.cloud.google.com/tpu/docs"
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275 * TERA, 32 * GIB, 1200 * GIGA, 300 * GIGA, 3.1 * GIGA, 3.2, f"{_TPU}/v4"),
        Chip("v5e", 197 * TERA, 16 * GIB, 819 * GIGA, 200 * GIGA, 3.1 * GIGA, 1.2, f"{_TPU}/v5e"),
        Chip("v5p", 459 * TERA, 95 * GIB, 2765 * GIGA, 600 * GIGA, 6.2 * GIGA, 4.2, f"{_TPU}/v5p"),
        Chip("v6e", 918 * TERA, 32 * GIB, 1640 * GIGA, 400 * GIGA, 12.5 * GIGA, 2.7, f"{_TPU}/v6e"),
        Chip(
            name="tpu7x",
            flops=2307 / 2 * TERA,
            hbm_bytes=96 * GIB,
            hbm_bandwidth=7380 / 2 * GIGA,
            ici_bandwidth=600 / 2 * GIGA,
            dcn_bandwidth=12.5 / 2 * GIGA,
            price=6.0,
            source=f"{_TPU}/tpu7x",
            per_chip=2,
        ),
        Chip(
            "a100", 312 * TERA, 80e9, 2039 * GIGA, 300 * GIGA, 25 * GIGA, 2.0, "nvidia.com A100", 8
        ),
        Chip(
            "h100", 989 * TERA, 80e9, 3350 * GIGA, 450 * GIGA, 50 * GIGA, 3.0, "nvidia.com H100", 8
        ),
        Chip(
            "h200", 989 * TERA, 141e9, 4800 * GIGA, 450 * GIGA, 50 * GIGA, 4.0, "nvidia.com H200", 8
        ),
        Chip(
            "b200", 2250 * TERA, 180e9, 8 * TERA, 900 * GIGA, 50 * GIGA, 6.0, "nvidia.com B200", 8
        ),
        Chip("mi300x", 1307 * TERA, 192e9, 5300 * GIGA, 448 * GIGA, 50 * GIGA, 3.0, "amd.com", 8),
        Chip(
            "cpu", 0.15 * TERA, 8 * GIB, 20 * GIGA, 10 * GIGA, 1 * GIGA, 0.0, "two cores, measured"
        ),
    )
}
KINDS = {  # as JAX calls devices whose names have no chip of the table in them
    "tpu v5 lite": "v5e",
    "tpu v5": "v5p",
    "tpu v6 lite": "v6e",
}


def chip_of(kind: str) -> Chip | None:
    """The chip of a JAX device of this kind; None for one that the table does not have."""
    name = KINDS.get(kind.lower())
    words = [name] if name else re.split(r"[ -]", kind.lower())
    return next((CHIPS[word] for word in words if word in CHIPS), None)
