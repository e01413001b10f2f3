"""SD3.5-Medium to a student of four steps, 1024 px: the method as SD3.5-Flash describes it.

flashjax run --config configs/sd35_medium_4step.py --workdir runs/medium \\
    --config.teacher.source=DIR --config.data.source=DIR

Variants stand after a colon, `sd35_medium_4step.py:512px,prompts`: `512px`, and `prompts`, which
trains on captions alone. Recipes named after a machine, sd35_medium_v6e_64.py and others, say how
the same run lies on it.

Sources: [1] SD3.5-Flash, arXiv:2509.21318, and what its readers report of it; [2] DMD2, 2405.14867;
[3] SenseFlow, 2506.00523; [4] SwD, 2503.16397; [5] ours, where no source says anything.
"""

from ml_collections import ConfigDict

from flashjax.types import InputError


def get_config(variants: str = "") -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.simulate_devices = 1
    config.model = dict(name="sd35_medium", sample_size=128, shift=3.0, t5_tokens=256, depth=0)
    config.teacher = dict(
        source="stable-diffusion-3.5-medium",  # a pipeline's folder; or a single file, and `base`
        base="",
        absent_t5=256,  # zero tokens for a T5 that is not there: as many as SD3.5 was trained with
    )
    across = dict(branch=1, data=1)
    config.mesh = dict(branch=1, data=-1, fsdp=1, context=1, tensor=1, dcn=across)
    config.compute = dict(
        dtype="bfloat16",
        residual="float32",  # or fake and teacher differ by rounding as much as by themselves [5]
        teacher_dtype="bfloat16",
        text_dtype="bfloat16",
        remat="block",
        attention="xla",
        encode_apart=True,
    )
    config.data = dict(
        source="data",  # pictures that SD3.5-Large drew, 32 steps, guidance 4 [1]; or your own
        weights=(),
        seed=0,
        train=0,  # all
        validation=1_000,
        empty_caption="refuse",
        captions="first",  # of several of one picture
        draw=dict(steps=0, guidance_scale=4.0, batch_size=32),  # 32 steps: the teacher draws [1]
        size=1024,
        crop="centre",
        upscale=1.25,
        smallest=128,  # a batch: buckets with fewer samples are left out
        text="embeddings",
        dtype="bfloat16",
    )
    config.student = dict(steps=4)  # timesteps 1000, 750, 500, 250: sigma 1, .9, .75, .5 [3]

    # Trajectory guidance: 2,000 steps of 1,120 samples at 1e-6 [1], as 17,500 of 128.
    config.guide = dict(
        job=job(17_500, log=50, save=500),
        optimiser=adam(1e-6, warmup=100),
        guide=dict(
            guidance_scale=4.5,  # of the teacher's card
            substeps=8,  # of the teacher within a step, 32 in all [1]
            drop_t5=0.3,  # so that the student works without T5, too [5]
            parts=1,
        ),
        average=dict(schedule="constant", decay=0.999, warmup=0.1),  # nothing of the teacher [5]
    )

    # Distribution matching with heads: 800 steps [1].
    config.match = dict(
        prompts="",
        job=job(800, log=10, save=100),
        critic_updates=5,  # [2], [4]
        student_optimiser=adam(1e-6, warmup=20),
        fake_optimiser=adam(1e-6, warmup=20),
        heads_optimiser=adam(1e-5, warmup=20),
        heads=dict(taps=(5, 11, 17, 23), width=256),  # several [1]; 11 is the one of [4]
        match=dict(
            eta=0.0,  # timestep sharing [1]; the last step is noised anew [5]
            guidance_scale=4.5,
            guidance_spread=0.0,  # 3 around 5 is that of [3]
            level="any",  # later one of the grid [1]; or next, grid, uniform [2], line
            last="renoise",  # or share [5]
            renoise_shift=1.0,  # of its levels; 3 numbers them as the teacher does [3]
            density=dict(mean=0.0, std=1.0, shift=3.0),  # logit-normal, shifted [3]
            shared_share=0.25,  # of the fake score's samples are at the shared levels [5]
            adversarial_weight=5e-3,  # [2], [4]
            adversarial="softplus",  # [2], [4]; or hinge [3]
            heads_reach=0.0,  # weight of the heads' gradient in the fake score; 0.01 in [2], [4]
            trajectory_weight=0.1,  # an anchor: sharing alone drifts [5]
            trajectory_substeps=8,
            head_reset=0.005,  # per head and step [1]
            fake_pull=0.02,  # [3]
            drop_t5=0.3,
            halved=0.0,
            parts=1,
        ),
        average=dict(schedule="constant", decay=0.99, warmup=0.1),  # that of the branches in [1]
    )

    # Two branches, each on half of the timesteps, 400 steps; merged 3:7 [1].
    config.split = dict(
        mesh=dict(branch=2, data=-1, fsdp=1, context=1, tensor=1, dcn=across),
        branches=dict(lo=(0.0, 500.0), hi=(500.0, 1000.0)),
        only="",
        job=job(400, log=10, save=100),
        student_optimiser=adam(1e-6, warmup=20),
        fake_optimiser=adam(1e-6, warmup=20),
        heads_optimiser=adam(1e-5, warmup=20),
        # It anchors the branches to where they start, of which it keeps 1.8 % [1].
        average=dict(schedule="constant", decay=0.99, warmup=0.0),
    )
    config.merge = dict(weights=dict(lo=0.3, hi=0.7))
    config.export = dict(dtype="bfloat16", title="SD3.5-Medium, 4 steps")
    config.quantize = dict(schemes=("q8_0", "q6_k"))
    config.evaluate = dict(
        samples=500,
        prompts="",
        shown=8,
        chunk=8,
        seed=7,
        teacher_steps=40,
        guidance_scale=4.5,
        judges=(),
    )
    config.report = dict(title="SD3.5-Medium in four steps", bars=dict())
    return with_variants(config, variants)


def job(steps: int, *, log: int, save: int) -> dict:
    """A job of batches of 128: what 64 chips hold of Medium with two samples each."""
    sizes = dict(steps=steps, batch_size=128, log_steps=log, checkpoint_steps=save)
    return sizes | dict(stall_seconds=1800.0)


def adam(rate: float, *, warmup: int) -> dict:
    """A constant rate after a short warm-up, without weight decay [1], [3]."""
    return dict(learning_rate=rate, warmup_steps=warmup, beta1=0.9)


def with_variants(config: ConfigDict, variants: str) -> ConfigDict:
    """The config with every variant of a comma-separated list."""
    for name in filter(None, variants.split(",")):
        if name == "512px":
            config.model.sample_size, config.data.size = 64, 512
        elif name == "prompts":  # no pictures: nothing real for the heads to see
            config.data.source = "prompts.txt"
            config.match.match.adversarial_weight = 0.0
        else:
            raise InputError(f"variant {name!r} is unknown: choose of 512px, prompts")
    return config
