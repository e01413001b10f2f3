"""The embedded teacher "nano": a complete miniature of SD3.5, trained from scratch on a CPU.

flashjax teach --config configs/nano_teacher.py --workdir runs/nano_teacher
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.simulate_devices = 1
    config.mesh = dict(branch=1, data=1, fsdp=1, context=1, tensor=1)
    config.data = dict(source="digit_scenes", seed=0, train=24_000, validation=2_000)

    config.teacher = dict(shift=3.0)
    config.reader = dict(steps=1700, batch=32, seed=20)

    config.vae = dict(
        kl_weight=1e-3,
        job=dict(steps=4500, batch_size=6, log_steps=50, checkpoint_steps=500),
        optimiser=dict(learning_rate=2e-3, warmup_steps=100, decay_steps=2000),
    )

    config.flow = dict(
        job=dict(steps=10_000, batch_size=64, log_steps=50, checkpoint_steps=500),
        optimiser=dict(learning_rate=2e-3, warmup_steps=200, decay_steps=3000, beta2=0.99),
        teach=dict(
            density=dict(mean=0.0, std=1.2, shift=2.0),
            drop_caption=0.1,
            drop_encoder=(0.05, 0.05, 0.15),
        ),
        average=dict(decay=0.998),
    )
    return config
