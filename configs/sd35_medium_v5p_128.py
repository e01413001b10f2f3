"""SD3.5-Medium, 1024 px, global batch 256, on one TPU v5p slice of 128 chips.

flashjax plan --config configs/sd35_medium_v5p_128.py --target v5p:4x4x8
"""

from pathlib import Path

from ml_collections import ConfigDict

from flashjax.config import load


def get_config() -> ConfigDict:
    config = load(Path(__file__).with_name("sd35_medium_v6e_64.py")).unlock()
    for stage, batch_size in (("guide", 256), ("match", 256), ("split", 128)):
        config[stage].job.batch_size = batch_size
    config.compute.remat = "attention"  # 95 GiB a chip: attention is kept, the rest done again
    return config
