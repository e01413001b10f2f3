"""What a step costs, as training's log and a plan have it."""

import dataclasses

import pytest

from flashjax import config as configs
from flashjax.models.flops import text_flops
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.target import open_devices, parse_target
from flashjax.stages.costs import (
    encoded_samples,
    guide_step_flops,
    match_step_flops,
    pass_flops,
)
from flashjax.tools import sections
from flashjax.tools.plan import programs

NANO = "configs/nano.py"
DEVICES = "cpu:2"


def setting_of(config):
    devices = open_devices(parse_target(DEVICES))
    return programs.abstract_setting(
        config, programs.named_model(config), make_mesh(config.mesh, devices)
    )


@pytest.mark.parametrize("through", [False, True])
def test_training_and_a_plan_count_the_same(through):
    told = ["match.match.halved=0", f"match.match.through={through}"]
    config = sections.load(NANO, told)
    devices = open_devices(parse_target(DEVICES))
    student, critic = programs.programs(config, devices, ("student", "critic"))
    cost = {p.name: sum(p.flops.values()) * p.samples for p in (student, critic)}
    step = cost["student"] + config.match.critic_updates * cost["critic"]
    assert match_step_flops(config, "match", setting_of(config), [(0, 4)]) == pytest.approx(step)
    assert student.trips == (3.0 if through else 1.5)


def test_guidance_without_pictures_rolls_out_to_states_of_its_own():
    config = configs.load(NANO)
    setting = setting_of(config)
    (seen,) = setting.samples
    blank = dataclasses.replace(seen, pictures=False)
    cost = [
        guide_step_flops(config, dataclasses.replace(setting, samples=samples))
        for samples in ((seen,), (blank,), (seen, blank))
    ]
    forward, _, _ = pass_flops(config, setting, batch_size=1)
    more = config.guide.job.batch_size * forward * 1.5  # of 0, 1, 2 and 3 steps
    assert cost[1] - cost[0] == pytest.approx(more)
    assert cost[2] - cost[0] == pytest.approx(more / 2)


def test_a_branch_rolls_out_to_its_own_steps():
    told = ["match.match.halved=0", "split.branches.lo=(0,250)", "split.branches.hi=(250,1000)"]
    config = sections.load(NANO, told)
    devices = open_devices(parse_target(DEVICES))
    (planned,) = programs.programs(config, devices, ("split-student",))
    assert planned.trips == 2.0  # the mean of 0, 1, 2 and that of 3 alone
    cost = [
        match_step_flops(config, "split", setting_of(config), spans)
        for spans in ([(0, 3)], [(3, 1)], [(0, 3), (3, 1)])
    ]
    assert cost[0] < cost[1] and sum(cost[:2]) == pytest.approx(cost[2])


def test_the_empty_caption_is_encoded_once_a_batch():
    config = configs.load(NANO)
    setting = setting_of(config)
    one = text_flops(setting.pipeline.text_config, t5_tokens=setting.frozen.empty.t5.shape[1])
    _, _, captions = pass_flops(config, setting, batch_size=4)
    assert captions["text"] == pytest.approx(1.25 * one)


def test_a_plan_counts_the_steps_that_the_critic_has_for_itself():
    config = sections.load(NANO, ["match.warmup_steps=30"])
    steps, updates = config.match.job.steps, config.match.critic_updates
    devices = open_devices(parse_target(DEVICES))
    student, critic = programs.programs(config, devices, ("student", "critic"))
    assert student.calls == steps - 30
    assert critic.calls == steps * updates + 30


def test_every_update_of_a_critic_encodes_captions_of_its_own():
    config = configs.load(NANO, ["match.critic_updates=3", "split.job.batch_size=16"])
    guide, match, split = (config[name].job for name in ("guide", "match", "split"))
    once = guide.steps * guide.batch_size
    again = match.steps * match.batch_size + split.steps * split.batch_size
    assert encoded_samples(config) == once + 4 * again
