"""SD3.5-Large, 1024 px, global batch 128, on one TPU v6e slice of 64 chips.

flashjax plan --config configs/sd35_large_v6e_64.py --target v6e:8x8
"""

from pathlib import Path

from ml_collections import ConfigDict

from flashjax.config import load


def get_config() -> ConfigDict:
    config = load(Path(__file__).with_name("sd35_large_4step.py")).unlock()
    # Eight billion weights, 28 bytes each: a state among 32 chips.
    config.mesh.fsdp = config.split.mesh.fsdp = 32
    config.compute.attention = "splash"
    config.split.job.batch_size = 64
    return config
