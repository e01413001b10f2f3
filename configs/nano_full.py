"""The demo with more steps, for the best figures (some 25 minutes on two cores).

flashjax run --config configs/nano_full.py --workdir runs/nano_full
"""

from pathlib import Path

from ml_collections import ConfigDict

from flashjax.config import load


def get_config() -> ConfigDict:
    config = load(Path(__file__).with_name("nano.py")).unlock()
    config.data.train = 20_000
    for stage, steps in (("guide", 500), ("match", 150), ("split", 60)):
        config[stage].job.update(steps=steps, checkpoint_steps=50)
    config.evaluate.samples = 700
    return config
