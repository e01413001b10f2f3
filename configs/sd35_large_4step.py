"""SD3.5-Large to a student of four steps, 1024 px: as sd35_medium_4step.py, on the larger teacher.

flashjax run --config configs/sd35_large_4step.py --workdir runs/large \\
    --config.teacher.source=DIR --config.data.source=DIR
"""

from pathlib import Path

from ml_collections import ConfigDict

from flashjax.config import load


def get_config(variants: str = "") -> ConfigDict:
    config = load(f"{Path(__file__).with_name('sd35_medium_4step.py')}:{variants}").unlock()
    config.model.name = "sd35_large"
    config.teacher.source = "stable-diffusion-3.5-large"
    config.match.heads.taps = (9, 18, 28, 37)  # a quarter, half, three quarters, all of 38 blocks
    config.export.title = "SD3.5-Large, 4 steps"
    config.report.title = "SD3.5-Large in four steps"
    return config
