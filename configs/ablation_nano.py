"""The arms of matching side by side on the demo's teacher, with 1, 4 and 2 steps and three seeds.

flashjax ablate --config configs/ablation_nano.py --workdir runs/ablation

A cell takes some two minutes of one core; the first table with all seeds is there after the first
fifth of the cells. `--config configs/ablation_nano.py:smoke` is all of it in a minute.
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flashjax.config import load


def get_config(variant: str = "") -> ConfigDict:
    config = load(Path(__file__).with_name("nano.py")).unlock()
    config.simulate_devices = 4  # one for each branch
    config.data.update(train=4_000, validation=700)
    config.guide.job.update(steps=240, batch_size=16, log_steps=20, checkpoint_steps=60)
    config.match.job.update(steps=60, batch_size=16, log_steps=5, checkpoint_steps=30)
    config.split.job.update(steps=24, batch_size=16, log_steps=4, checkpoint_steps=12)
    config.evaluate.update(samples=300, twice=100, chunk=50)
    config.report.title = "Arms of distribution matching on nano"
    both = dict(lo=(0.0, 500.0), hi=(500.0, 1000.0))
    config.ablate = dict(
        steps=(1, 4, 2),  # in this order: one step needs matching most
        seeds=(0, 1, 2),
        arms=dict(
            # What DMD2 does, what SD3.5-Flash does, and what lies between them and beside.
            renoise=arm(),
            share_any=arm(eta=0.0, level="any"),
            share_next=arm(eta=0.0, level="next"),
            share_all=arm(eta=0.0, level="any", last="share"),
            renoise_grid=arm(level="grid"),
            line=arm(eta=0.0, level="line"),
            dial_half=arm(eta=0.5, level="any"),
            dial_most=arm(eta=0.9, level="any"),
            interval=arm(eta=0.0, level="interval", adversarial_weight=0.0),
            # One thing each that is not the default: the losses,
            no_heads=arm(adversarial_weight=0.0),
            strong_heads=arm(adversarial_weight=0.3),
            hinge=arm(adversarial="hinge"),
            heads_reach=arm(heads_reach=0.01),
            features=arm(feature_weight=1.0),
            drawn_guidance=arm(guidance_spread=2.0),
            no_floor=arm(floor=0.001),
            # and how fast, and in which order, student and critic learn.
            rate_high=arm(student_optimiser=dict(learning_rate=2e-4)),
            rate_low=arm(student_optimiser=dict(learning_rate=5e-6)),
            critic_first=arm(warmup_steps=20),
            critic_often=arm(critic_updates=5),
        ),
        trajectory=(0.1, 0.0),
        pull=(0.02, 0.0),
        splits=dict(
            plain=dict(branches=dict(all=(0.0, 1000.0)), weights=(dict(all=1.0),), decay=0.0),
            average=dict(branches=dict(all=(0.0, 1000.0)), weights=(dict(all=1.0),)),
            pair=dict(
                branches=both, weights=tuple(dict(lo=x, hi=1.0 - x) for x in (0.5, 0.4, 0.3, 0.2))
            ),
            quarters=dict(
                branches=dict(
                    q1=(0.0, 250.0), q2=(250.0, 500.0), q3=(500.0, 750.0), q4=(750.0, 1000.0)
                ),
                weights=tuple(
                    dict(q1=x, q2=x, q3=0.5 - x, q4=0.5 - x) for x in (0.25, 0.2, 0.15, 0.1)
                ),
            ),
            experts=dict(branches=both, weights=()),  # both are kept, and run in turn
        ),
        split_from="renoise",
        first=("renoise", "share_any", "share_all", "no_heads", "strong_heads", "rate_high"),
    )
    return smoke(config) if variant == "smoke" else config


def arm(**changes: Any) -> dict[str, Any]:
    """Changes of match, or of match.match, to the arm of DMD2."""
    steps = ("student_optimiser", "warmup_steps", "critic_updates")
    match = {key: value for key, value in changes.items() if key not in steps}
    rest = {key: value for key, value in changes.items() if key in steps}
    return dict(match=dict(eta=1.0, level="uniform", last="renoise") | match, **rest)


def smoke(config: ConfigDict) -> ConfigDict:
    """An arm and a split, as small as they can be."""
    config.data.update(train=32, validation=24)
    for stage in ("guide", "match", "split"):
        config[stage].job.update(steps=2, batch_size=2, log_steps=1, checkpoint_steps=1)
    config.match.critic_updates = 1
    config.evaluate.update(samples=8, twice=2, chunk=10, teacher_steps=2)
    grid = config.ablate
    arms, splits = grid.arms.to_dict(), grid.splits.to_dict()
    del grid.arms, grid.splits
    grid.update(steps=(2,), seeds=(0,), trajectory=(0.1,), pull=(0.02,), tuned=4, shown=2)
    grid.update(teacher_substeps=2, first=())
    grid.arms = {"renoise": arms["renoise"]}
    grid.splits = {name: splits[name] for name in ("pair",)}
    return config
