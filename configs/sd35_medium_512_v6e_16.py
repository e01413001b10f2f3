"""SD3.5-Medium, 512 px, global batch 128, on one TPU v6e slice of 16 chips.

flashjax plan --config configs/sd35_medium_512_v6e_16.py --target v6e:4x4
"""

from pathlib import Path

from ml_collections import ConfigDict

from flashjax.config import load


def get_config() -> ConfigDict:
    config = load(f"{Path(__file__).with_name('sd35_medium_v6e_64.py')}:512px").unlock()
    config.split.mesh.fsdp = 8  # a branch has eight chips
    return config
