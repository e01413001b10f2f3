"""A TPU's software without TPUs is not asked for them; where there are some, it is."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import jax
from jax._src import xla_bridge
from flashjax.parallel import absent
xla_bridge.register_backend_factory("tpu", lambda: print("libtpu is asked"), priority=300)
absent.has_tpus = lambda: {there}
absent.leave_out_tpus()
print(jax.devices()[0].platform)
"""


def said(there: bool, **more: str) -> list[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    command = [sys.executable, "-c", PROGRAM.format(there=there)]
    done = subprocess.run(
        command, env=environment | more, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("there", "wanted"), [(False, ["cpu"]), (True, ["libtpu is asked", "cpu"])]
)
def test_libtpu_is_asked_where_tpus_are_and_not_where_none_are(there, wanted):
    assert said(there) == wanted


def test_libtpu_is_asked_where_somebody_says_so():
    with pytest.raises(subprocess.CalledProcessError) as error:  # of JAX, which finds none
        said(False, JAX_PLATFORMS="tpu,cpu")
    assert error.value.stdout == "libtpu is asked\n"
