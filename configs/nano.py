"""The demo: the packaged teacher to a 4-step student, shipped and measured, on two cores.

flashjax run --config configs/nano.py --workdir runs/nano
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.simulate_devices = 2  # the two branches of `split` train side by side
    across = dict(branch=1, data=1)  # sizes across slices, which a machine of one slice has not
    config.mesh = dict(branch=1, data=1, fsdp=1, context=1, tensor=1, dcn=across)
    config.teacher = dict(
        source="nano",  # or a diffusers folder, a single file, a GGUF
        base="",  # a pipeline's folder with the networks that the source lacks
        absent_t5=256,  # zero tokens that stand for a T5 that is not there: 0, 77 or 256
    )
    config.data = dict(
        source="digit_scenes",  # or a folder of pictures, tars, a table, a file of prompts
        weights=(),
        seed=1,
        train=6_000,
        validation=1_500,
        empty_caption="refuse",
        draw=dict(steps=0, guidance_scale=4.0, batch_size=32),  # for prompts without pictures
        captions="first",  # of several of one picture; or "random", or "none" are learnt
        size=0,  # the model's own
        crop="centre",
        upscale=1.25,
        smallest=1,  # samples of a bucket that is kept
        text="tokens",
        dtype="float32",
    )
    config.student = dict(steps=4)

    config.guide = dict(
        job=dict(
            steps=240,
            batch_size=32,
            log_steps=10,
            checkpoint_steps=120,
            stall_seconds=1800.0,
            sample_steps=120,  # between two grids of pictures, the teacher beside the student
        ),
        optimiser=dict(learning_rate=5e-4, warmup_steps=10, decay_steps=80),
        guide=dict(guidance_scale=4.0, substeps=4, drop_t5=0.15, parts=1),
        average=dict(schedule="constant", decay=0.95, warmup=0.1),
    )

    config.match = dict(
        prompts="",  # a file of captions to match on without pictures; needs adversarial_weight=0
        job=dict(
            steps=60,
            batch_size=32,
            log_steps=5,
            checkpoint_steps=20,
            stall_seconds=1800.0,
            sample_steps=0,
        ),
        critic_updates=2,
        student_optimiser=dict(learning_rate=3e-5, warmup_steps=10, beta1=0.5),
        fake_optimiser=dict(learning_rate=2e-4, warmup_steps=5, beta1=0.5),
        heads_optimiser=dict(learning_rate=2e-4, warmup_steps=5, beta1=0.5),
        heads=dict(taps=(0, 2), width=64),
        match=dict(
            eta=0.0,
            level="any",  # "next", "grid", "uniform" (DMD2, with eta=1), "line"
            last="renoise",  # or "share"
            guidance_scale=4.0,
            guidance_spread=0.0,
            density=dict(mean=0.0, std=1.2, shift=2.0),
            shared_share=0.25,
            adversarial_weight=0.03,
            adversarial="softplus",  # or "hinge"
            heads_reach=0.0,  # weight of the heads' gradient in the fake score
            trajectory_weight=1.0,
            trajectory_substeps=2,
            head_reset=0.005,
            fake_pull=0.02,
            drop_t5=0.15,
            halved=0.5,  # the student draws in two steps, too
            parts=1,  # a batch is differentiated in so many, one after the other
        ),
        average=dict(schedule="constant", decay=0.95, warmup=0.1),
    )

    config.split = dict(
        mesh=dict(branch=2, data=1, fsdp=1, context=1, tensor=1, dcn=across),
        branches=dict(lo=(0.0, 500.0), hi=(500.0, 1000.0)),
        only="",  # the one branch that a job of its own trains, on all of its devices
        job=dict(steps=24, batch_size=32, log_steps=4, checkpoint_steps=12, stall_seconds=1800.0),
        student_optimiser=dict(learning_rate=2e-5, warmup_steps=5, beta1=0.5),
        fake_optimiser=dict(learning_rate=1e-4, warmup_steps=5, beta1=0.5),
        heads_optimiser=dict(learning_rate=1e-4, warmup_steps=5, beta1=0.5),
        average=dict(schedule="constant", decay=0.85, warmup=0.0),  # 2 % of the start: an anchor,
    )
    config.merge = dict(weights=dict(lo=0.3, hi=0.7))
    config.export = dict(dtype="float16", title="flashjax nano, 4 steps")
    config.quantize = dict(schemes=("q8_0", "q6_k"))
    config.evaluate = dict(
        samples=500,
        prompts="",  # a file of captions to draw instead of the validation split's
        shown=10,
        chunk=50,
        seed=7,
        teacher_steps=50,
        guidance_scale=4.0,
        twice=100,  # of these captions are drawn from other noise too, for diversity
        # and "clip=DIR", "pick=DIR", "dino=DIR", "fid=FILE"; or none: ()
        judges=("digit_scenes", "detail"),
    )
    config.report = dict(
        title="",  # "" says the teacher and the steps of the run
        bars=dict(kept=90.0, above=10.0, lost=2.0, faster=18.0),  # of the first judge's figure
    )
    return config
