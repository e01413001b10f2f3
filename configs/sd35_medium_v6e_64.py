"""SD3.5-Medium, 1024 px, global batch 128, on one TPU v6e slice of 64 chips.

flashjax plan --config configs/sd35_medium_v6e_64.py --target v6e:8x8
"""

from pathlib import Path

from ml_collections import ConfigDict

from flashjax.config import load


def get_config() -> ConfigDict:
    config = load(Path(__file__).with_name("nano.py")).unlock()
    config.simulate_devices = 1
    config.model = dict(name="sd35_medium", sample_size=128, shift=3.0, t5_tokens=256, depth=0)
    config.teacher = dict(source="sd3.5_medium.safetensors", base="")
    # Weights are gathered among 16 chips; the four groups meet once a step, for the gradient.
    config.mesh.update(data=-1, fsdp=16)
    config.compute = dict(
        dtype="bfloat16",
        teacher_dtype="bfloat16",
        text_dtype="bfloat16",
        remat="block",
        attention="splash",
        encode_apart=True,
    )
    config.guide.job.update(steps=2_000, batch_size=128, log_steps=10, checkpoint_steps=200)
    config.guide.optimiser = dict(learning_rate=1e-5, warmup_steps=100, decay_steps=500)
    config.guide.guide.ema_decay = 0.999
    config.match.job.update(steps=4_000, batch_size=128, log_steps=10, checkpoint_steps=200)
    config.match.critic_updates = 5
    config.match.heads = dict(taps=(5, 11, 17, 23), width=256)
    config.match.match.update(ema_decay=0.999, shared_share=0.25)
    for name, rate in (("student", 5e-6), ("fake", 1e-5), ("heads", 1e-4)):
        config.match[f"{name}_optimiser"] = dict(learning_rate=rate, warmup_steps=100, beta1=0.0)
        config.split[f"{name}_optimiser"] = dict(learning_rate=rate, warmup_steps=100, beta1=0.0)
    config.split.mesh.update(data=-1, fsdp=16)
    config.split.job.update(steps=1_000, batch_size=64, log_steps=10, checkpoint_steps=100)
    return config
