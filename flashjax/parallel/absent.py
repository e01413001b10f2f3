"""A libtpu without TPUs: `plan` compiles with it, and nothing else needs to hear of it.

Where it is installed JAX tries it first, and it says five lines about the host that it is not on.
"""

import glob
import os

from jax._src import hardware_utils, xla_bridge

ASKED = ("JAX_PLATFORMS", "JAX_FORCE_TPU_INIT")  # by whoever knows better
DEVICES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")  # of chips that JAX does not know yet


def leave_out_tpus() -> None:
    """Has JAX not look for TPUs, before it touches a device, where there are none."""
    if not (any(os.environ.get(name) for name in ASKED) or has_tpus()):
        xla_bridge.register_backend_factory("tpu", lambda: None, fail_quietly=True)


def has_tpus() -> bool:
    """Whether there is, or may be, a TPU on this host."""
    chips, _ = hardware_utils.num_available_tpu_chips_and_device_id()
    return chips > 0 or any(map(glob.glob, DEVICES))
