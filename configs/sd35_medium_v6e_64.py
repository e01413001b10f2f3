"""SD3.5-Medium, 1024 px, global batch 128, on one TPU v6e slice of 64 chips.

flashjax plan --config configs/sd35_medium_v6e_64.py --target v6e:8x8
"""

from pathlib import Path

from ml_collections import ConfigDict

from flashjax.config import load


def get_config(variants: str = "") -> ConfigDict:
    config = load(f"{Path(__file__).with_name('sd35_medium_4step.py')}:{variants}").unlock()
    # Weights are gathered among 16 chips; the four groups meet once a step, for the gradient.
    config.mesh.fsdp = config.split.mesh.fsdp = 16
    config.compute.attention = "splash"
    config.compute.teacher_whole = True  # 4 GiB of 32; its nine passes a step gather nothing
    config.split.job.batch_size = 64  # of each branch, on its half of the chips
    return config
