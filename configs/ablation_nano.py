"""The arms of matching side by side on the demo's teacher, with 1, 4 and 2 steps and three seeds.

flashjax ablate --config configs/ablation_nano.py --workdir runs/ablation --jobs 14

In minutes on a GPU of a machine of 16 cores; of two cores alone a cell takes a quarter of an hour.
Behind the file's name `:short` matches a third as long, `:blank` and `:blank_short` are of pictures
without captions, and `:smoke` is all of it in a minute.
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flashjax.config import load
from flashjax.types import InputError

RATE = 1e-4  # of the student: at nano's 3e-5 a hundred steps change it less than its error
SUBSTEPS = 16  # of the teacher over all steps of a student that is guided


def get_config(variant: str = "full") -> ConfigDict:
    config = load(Path(__file__).with_name("nano.py")).unlock()
    config.simulate_devices = 1  # branches train in turn, on what the machine has
    config.data.update(train=4_000, validation=1_000)
    config.guide.job.update(steps=240, batch_size=16, log_steps=20, checkpoint_steps=60)
    config.guide.job.sample_steps = 0
    config.match.job.update(steps=200, batch_size=32, log_steps=10, checkpoint_steps=100)
    for optimiser in ("student_optimiser", "fake_optimiser", "heads_optimiser"):
        config.match[optimiser].warmup_steps = 20
    config.match.student_optimiser.learning_rate = RATE
    config.split.job.update(steps=60, batch_size=32, log_steps=5, checkpoint_steps=30)
    config.split.student_optimiser.learning_rate = RATE / 2
    config.evaluate.update(samples=500, twice=100, chunk=100)
    config.report.title = "Arms of distribution matching on nano"
    both = dict(lo=(0.0, 500.0), hi=(500.0, 1000.0))
    config.ablate = dict(
        steps=(1, 4, 2),  # in this order: one step needs matching most
        seeds=(0, 1, 2),
        arms=dict(
            # What DMD2 does, what SD3.5-Flash does, what lies between them and beside;
            renoise=arm(),
            share_all=arm(eta=0.0, level="any", last="share"),
            share_any=arm(eta=0.0, level="any"),
            share_next=arm(eta=0.0, level="next"),
            line=arm(eta=0.0, level="line"),
            dial=arm(eta=0.5, level="any"),
            renoise_grid=arm(level="grid"),
            interval=interval(),
            tdm=interval(interval_target="sample"),
            # the control, as many steps of what `guide` does, and with as many of the teacher;
            regress=arm(
                matching_weight=0.0,
                adversarial_weight=0.0,
                trajectory_weight=1.0,
                anchor_substeps=SUBSTEPS,
            ),
            # one thing each that is not the default: the losses,
            no_heads=arm(adversarial_weight=0.0),
            strong_heads=arm(adversarial_weight=0.3),
            heads_alone=arm(matching_weight=0.0, adversarial_weight=0.3),
            hinge=arm(adversarial="hinge"),
            features=arm(feature_weight=1.0),
            drawn_guidance=arm(guidance_spread=2.0),
            no_trajectory=arm(trajectory_weight=0.0),
            fine_anchor=arm(anchor_substeps=SUBSTEPS),
            # levels as a teacher of shift 3 numbers them (SenseFlow), with more noise;
            shifted=arm(renoise_shift=3.0),
            shifted_heads=arm(renoise_shift=3.0, adversarial_weight=0.3),
            share_shifted=arm(eta=0.0, level="any", renoise_shift=3.0),
            keep_t5=arm(drop_t5=0.0),
            # the last sample alone is matched, back through all steps but the first (DP-DMD);
            through=arm(through=True),
            # a student that draws in two steps, too, and is told of it or not;
            halved=arm(halved=0.5),
            told=arm(halved=0.5, told=True),
            # how fast, and in which order, student and critic learn;
            no_pull=arm(fake_pull=0.0),
            rate_high=arm(student_optimiser=dict(learning_rate=3 * RATE)),
            rate_low=arm(student_optimiser=dict(learning_rate=RATE / 3)),
            critic_first=arm(warmup_steps=20),
            critic_often=arm(critic_updates=5),
            # and, for the record, a fake score that learns no score.
            fake_on_lines=arm(eta=0.0, level="any", last="share", fake_eta=0.0),
        ),
        teacher_substeps=SUBSTEPS,
        anchor_substeps=4,  # the term is an anchor, and a coarse teacher costs a quarter
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
        first=(
            "renoise",
            "share_all",
            "share_any",
            "regress",
            "no_heads",
            "strong_heads",
            "no_trajectory",
        ),
        later=("share_any", "share_shifted", "share_next", "line", "dial", "through"),
        halving=("halved", "told"),
    )
    if variant not in VARIANTS:
        raise InputError(f"variant {variant!r} is unknown: choose of {', '.join(VARIANTS)}")
    return VARIANTS[variant](config)


def arm(**changes: Any) -> dict[str, Any]:
    """Changes of match, or of match.match, to the arm of DMD2."""
    steps = ("student_optimiser", "warmup_steps", "critic_updates", "anchor_substeps")
    match = {key: value for key, value in changes.items() if key not in steps}
    rest = {key: value for key, value in changes.items() if key in steps}
    return dict(match=dict(eta=1.0, level="uniform", last="renoise") | match, **rest)


def interval(**changes: Any) -> dict[str, Any]:
    """The arm that diffuses a state of the student's line, and has no levels for heads."""
    return arm(eta=0.0, level="interval", adversarial_weight=0.0, **changes)


def short(config: ConfigDict) -> ConfigDict:
    """Matching and branches for a third of the samples, and fewer captions."""
    config.match.job.update(steps=120, batch_size=16, log_steps=5, checkpoint_steps=30)
    config.split.job.update(steps=24, batch_size=16, log_steps=4, checkpoint_steps=12)
    config.evaluate.update(samples=300, chunk=50)
    return config


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
    grid.update(teacher_substeps=2, anchor_substeps=2, first=(), later=(), halving=())
    grid.arms = {"renoise": arms["renoise"]}
    grid.splits = {name: splits[name] for name in ("pair",)}
    return config


def blank(config: ConfigDict) -> ConfigDict:
    """Pictures without captions: the noise alone decides what is drawn, and regression blurs."""
    config.data.captions = "none"
    for stage in (config.guide.guide, config.match.match, config.evaluate):
        stage.guidance_scale = 1.0  # nothing is said that could guide
    config.ablate.update(steps=(1, 2), anchor_substeps=SUBSTEPS)
    config.report.title = "Arms of distribution matching on nano without captions"
    return config


VARIANTS = {
    "full": lambda config: config,
    "short": short,
    "blank": blank,
    "blank_short": lambda config: blank(short(config)),
    "smoke": smoke,
}
