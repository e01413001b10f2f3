"""The demo with a student of one step: all timesteps are one branch's.

flashjax run --config configs/nano_1step.py --workdir runs/nano_1step
"""

from pathlib import Path

from ml_collections import ConfigDict

from flashjax.config import load


def get_config() -> ConfigDict:
    config = load(Path(__file__).with_name("nano.py")).unlock()
    config.student.steps = 1
    # The teacher takes 16 steps to where the student ends, as in nano.py.
    config.guide.guide.substeps = 16
    # What one step gains most by (docs/ablation.md): it moves further, held by a light anchor.
    config.match.job.steps = 120
    config.match.student_optimiser.update(learning_rate=1e-4, warmup_steps=20)
    config.match.match.update(trajectory_weight=0.1, trajectory_substeps=4, halved=0.0)
    del config.split.branches, config.merge.weights
    config.split.branches, config.merge.weights = dict(all=(0.0, 1000.0)), dict(all=1.0)
    config.split.mesh.branch = 1
    config.export.title = "flashjax nano, 1 step"
    config.report.bars = dict(faster=18.0)
    return config
