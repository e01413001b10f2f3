"""A toy job of eight steps in a workdir at an address: `mirror_job.py ADDRESS [HOW]`.

HOW is how it is killed: "step" once its first checkpoint is at the address, or "marker" with its
second one uploaded and not named yet.
"""

import os
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from flashjax.data.pipeline import Ahead, batches
from flashjax.data.remote import lock, shelf
from flashjax.data.remote.manifest import read_manifest
from flashjax.data.remote.store import Store
from flashjax.stages.mirror import opened
from flashjax.stages.stage import run_stage
from flashjax.stages.training import JobConfig, run_job

STEPS = 8
JOB = JobConfig(steps=STEPS, batch_size=2, log_steps=1, checkpoint_steps=2)
SAMPLES = np.arange(12.0, dtype=np.float32)


def init():
    return {"w": jnp.zeros(()), "step": jnp.zeros((), jnp.int32)}


@jax.jit
def advance(state, batch):
    weight = state["w"] * 0.9 + batch.sum() * (1 + state["step"])
    return {"w": weight, "step": state["step"] + 1}, {"toy/loss": weight}


def saved(address):
    """The steps of the checkpoints that the manifest of an address names."""
    manifest = read_manifest(Store.of(address))
    names = manifest.files if manifest else {}
    return {int(name.split("/")[2]) for name in names if name.startswith("toy/checkpoints/")}


def body(address, how):
    def step(state, batch):
        if int(state["step"]) >= 3:
            time.sleep(0.3)  # or the job would be done before anything is put there
        if how == "step" and int(state["step"]) >= 3 and saved(address):
            os.kill(os.getpid(), signal.SIGKILL)
        return advance(state, batch)

    def run(folder):
        data = Ahead(batches(SAMPLES, batch_size=JOB.batch_size, seed=0), np.asarray)
        abstract = jax.eval_shape(init)
        state = run_job("toy", folder, JOB, step=step, init=init, abstract=abstract, data=data)
        return {"w": float(state["w"])}

    return run


def dying_before_its_second_marker():
    write, named = shelf.write_manifest, []

    def die(store, manifest):
        now = {name.split("/")[2] for name in manifest.files if "/checkpoints/" in name}
        if named and now - named[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        if now:
            named.append(now)
        write(store, manifest)

    shelf.write_manifest = die


def work(address, how=""):
    with opened(address) as workdir:
        return run_stage("toy", {"a": 1}, workdir, body(address, how), inputs={}, seed=0)


if __name__ == "__main__":
    lock.AGREE = 0.01
    address, how = (*sys.argv[1:], "")[:2]
    if how == "marker":
        dying_before_its_second_marker()
    print(work(address, how)["w"])
