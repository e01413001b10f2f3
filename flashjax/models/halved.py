"""What tells a student that it takes two steps of its grid at once: one vector beside its network.

On the grid and on every other level of it one input, such as pure noise, has two targets: where one
step ends, and where two do. The vector is added to the one that modulates every block, so that the
network stays as it is: its parameters are told, and what comes out is a plain tree again.
"""

import jax.numpy as jnp
from jax import Array

from flashjax.types import Params

HALF = "half"  # {"bias": "d"}, beside the network's own parameters
_ADDED_TO = "time_2"  # its output is a term of what modulates every block


def with_half(params: Params) -> Params:
    """The tree with the vector, which begins at zero; one that has it stays as it is."""
    if HALF in params:
        return params
    return params | {HALF: {"bias": jnp.zeros_like(params[_ADDED_TO]["bias"])}}


def told(params: Params, halved: Array | bool) -> Params:
    """The network's own parameters for a step of the grid, or if `halved` for two at once.

    `halved` is a scalar. Without the vector, and for False itself, they are as they were.
    """
    own = {name: leaf for name, leaf in params.items() if name != HALF}
    if HALF not in params or halved is False:
        return own
    changed = own[_ADDED_TO]
    return own | {_ADDED_TO: changed | {"bias": changed["bias"] + halved * params[HALF]["bias"]}}
