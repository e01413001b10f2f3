"""What the chips can do, from their makers' pages: the one table that estimates read.

Peaks are per chip and dense, in bfloat16; one JAX device of v5e, v5p and v6e is one chip.
`ici_bandwidth` is the sum over all links of a chip in one direction (NVLink on GPU),
`dcn_bandwidth` its share of its host's network. Prices, in dollars an hour, are round figures of
on-demand offers and no maker's: give your own with `--price`.
"""

import dataclasses

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


_TPU = "cloud.google.com/tpu/docs"
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", 197 * TERA, 16 * GIB, 819 * GIGA, 200 * GIGA, 3.1 * GIGA, 1.2, f"{_TPU}/v5e"),
        Chip("v5p", 459 * TERA, 95 * GIB, 2765 * GIGA, 600 * GIGA, 6.2 * GIGA, 4.2, f"{_TPU}/v5p"),
        Chip("v6e", 918 * TERA, 32 * GIB, 1640 * GIGA, 400 * GIGA, 12.5 * GIGA, 2.7, f"{_TPU}/v6e"),
        Chip(
            "h100", 989 * TERA, 80e9, 3350 * GIGA, 450 * GIGA, 50 * GIGA, 3.0, "nvidia.com H100", 8
        ),
        Chip(
            "h200", 989 * TERA, 141e9, 4800 * GIGA, 450 * GIGA, 50 * GIGA, 4.0, "nvidia.com H200", 8
        ),
        Chip(
            "cpu", 0.15 * TERA, 8 * GIB, 20 * GIGA, 10 * GIGA, 1 * GIGA, 0.0, "two cores, measured"
        ),
    )
}
