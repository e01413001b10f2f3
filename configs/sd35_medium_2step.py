"""SD3.5-Medium to a student of two steps: as sd35_medium_4step.py, on every other level.

flashjax run --config configs/sd35_medium_2step.py --workdir runs/medium_2 \\
    --config.teacher.source=DIR --config.data.source=DIR
"""

from pathlib import Path

from ml_collections import ConfigDict

from flashjax.config import load


def get_config(variants: str = "") -> ConfigDict:
    config = load(f"{Path(__file__).with_name('sd35_medium_4step.py')}:{variants}").unlock()
    config.student.steps = 2  # timesteps 1000, 500: sigma 1, .75; one for each branch
    # The teacher still takes 32 steps in all, for an epoch of the same samples.
    config.guide.guide.substeps = config.match.match.trajectory_substeps = 16
    config.export.title = "SD3.5-Medium, 2 steps"
    config.report.title = "SD3.5-Medium in two steps"
    return config
