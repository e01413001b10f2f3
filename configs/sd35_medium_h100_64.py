"""SD3.5-Medium, 1024 px, global batch 128, on 64 H100 in 8 hosts.

flashjax plan --config configs/sd35_medium_h100_64.py --target h100:64

The plan is of simulated devices: layouts and collectives are the partitioner's, memory and kernels
are not those of a GPU. Weights are gathered within a host.
"""

from pathlib import Path

from ml_collections import ConfigDict

from flashjax.config import load


def get_config() -> ConfigDict:
    config = load(Path(__file__).with_name("sd35_medium_v6e_64.py")).unlock()
    config.mesh.fsdp = 8
    config.split.mesh.fsdp = 8
    config.compute.update(attention="cudnn", remat="attention")
    return config
