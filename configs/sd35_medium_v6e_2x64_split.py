"""SD3.5-Medium's branches on two TPU v6e slices of 64 chips, a branch on each.

flashjax plan --config configs/sd35_medium_v6e_2x64_split.py --target v6e:8x8 --slices 2 \
    --programs split-student,split-critic
"""

from pathlib import Path

from ml_collections import ConfigDict

from flashjax.config import load


def get_config() -> ConfigDict:
    config = load(Path(__file__).with_name("sd35_medium_v6e_64.py")).unlock()
    config.mesh.dcn.data = 2
    # Within a slice a branch has all chips; between slices there is nothing to say.
    config.split.mesh.branch = 1
    config.split.mesh.dcn.branch = 2
    config.split.job.batch_size = 128
    return config
