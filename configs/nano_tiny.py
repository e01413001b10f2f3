"""The demo's road in its smallest size: every stage saves several times within seconds.

flashjax chaos --config configs/nano_tiny.py --workdir runs/chaos
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

nano = runpy.run_path(str(Path(__file__).with_name("nano.py")))


def get_config() -> ConfigDict:
    config = nano["get_config"]()
    config.data.update(train=64, validation=40)
    config.guide.job.update(
        steps=8,
        batch_size=4,
        log_steps=1,
        checkpoint_steps=2,
        milestone_steps=2,
        sample_steps=0,
    )
    config.match.job.update(steps=6, batch_size=4, log_steps=1, checkpoint_steps=2)
    config.split.job.update(steps=6, batch_size=4, log_steps=1, checkpoint_steps=2)
    config.evaluate.update(samples=8, twice=2, shown=4, chunk=4, teacher_steps=4)
    return config
