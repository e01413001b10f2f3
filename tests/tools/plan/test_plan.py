"""`plan` on simulated devices: the actual steps of nano, their memory, collectives and cost."""

import argparse
import json
import math

import jax
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from flashjax import config as configs
from flashjax import trees
from flashjax.parallel.target import open_devices, parse_target
from flashjax.tools.plan import command, programs
from flashjax.tools.plan.report import role_bytes
from flashjax.types import InputError

OVERRIDES = ["mesh.fsdp=4", "mesh.data=2", "guide.job.batch_size=8"]
SMALL = """
from flashjax.config import load
def get_config():
    config = load("configs/nano.py").unlock()
    config.model = dict(name="nano", sample_size=8, t5_tokens=12, depth=2)
    config.compute = dict(encode_apart=True)
    config.match.heads.taps = (0, 1)
    return config
"""


@pytest.fixture(scope="module")
def planned():
    config = configs.load("configs/nano.py", OVERRIDES)
    return config, programs.programs(config, open_devices(parse_target("cpu:8")))


def options(cache, **more):
    config = cache / "small.py"
    config.write_text(SMALL)
    flags = {"config": str(config), "target": "cpu:8", "slices": 1, "programs": "guide"}
    flags |= {"price": 2.0, "json": True, "cache": str(cache), "hlo": None, "large_tiles": False}
    return argparse.Namespace(**flags | more)


def test_every_program_of_a_run_is_described_without_a_number(planned):
    _, found = planned
    assert [p.name for p in found] == [
        "guide",
        "student",
        "critic",
        "split-student",
        "split-critic",
    ]
    for program in found:
        leaves = jax.tree.leaves(program.arguments)
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
        assert sum(program.flops.values()) > 3 * program.forward


@pytest.mark.parametrize("whole", [False, True])
def test_the_teacher_alone_may_lie_whole_on_every_device(whole):
    cut = ["model.depth=3", "match.heads.taps=(0,2)", "mesh.fsdp=8", "split.mesh.fsdp=4"]
    config = configs.load("configs/sd35_medium_v6e_64.py", [*cut, f"compute.teacher_whole={whole}"])
    for program in programs.programs(config, open_devices(parse_target("cpu:8"))):
        frozen = next(one for one in program.arguments if hasattr(one, "teacher"))
        sizes = {"teacher": frozen.teacher, "state": program.arguments[0]}
        if frozen.student is not None:  # of the steps before a branch: as `match` left it
            sizes["before"] = frozen.student
            assert {leaf.dtype.name for leaf in jax.tree.leaves(frozen.student)} == {"float32"}
        for name, tree in sizes.items():
            leaves = jax.tree.leaves(tree)
            if whole and name == "teacher":  # but for modulations, which nothing gathers
                paths = trees.flatten(tree).items()
                leaves = [leaf for path, leaf in paths if "modulation" not in path]
            total = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
            share = sum(map(programs.device_bytes, leaves)) / total
            assert (share == 1) if whole and name == "teacher" else share < 0.3


def test_with_embeddings_cached_no_program_has_a_text_encoder():
    cached = ["data.text=embeddings", "data.dtype=bfloat16", "compute.encode_apart=True"]
    config = configs.load("configs/sd35_medium_4step.py", cached)
    found = programs.programs(config, open_devices(parse_target("cpu:8")))
    assert "text" not in [program.name for program in found]
    for program in found:
        assert "text" not in program.flops and program.resident == 0
        leaves = jax.tree.leaves(program.arguments)
        assert {leaf.dtype.name for leaf in leaves if leaf.shape[1:] == (333, 4096)} == {"bfloat16"}
        shapes = {leaf.shape for leaf in leaves}
        assert (32128, 4096) not in shapes  # T5's words
    with pytest.raises(InputError, match="--programs text: no program encodes captions apart"):
        programs.programs(config, open_devices(parse_target("cpu:8")), ("text",))


def test_the_teacher_costs_two_passes_the_fake_one_and_the_roll_out_its_mean(planned):
    config, found = planned
    student, critic = found[1], found[2]
    forward, substeps = student.forward, config.match.match.trajectory_substeps
    assert config.student.steps == 4 and config.match.match.halved == 0.5
    mean = ((0 + 1 + 2 + 3) / 4 + (0 + 0 + 1 + 1) / 4) / 2  # of four steps, and of two at once
    assert student.flops["roll-out"] == mean * forward
    assert student.flops["teacher"] == 2 * forward * (1 + substeps)
    assert student.flops["fake"] == 3 * forward  # a score, and the adversarial term's two
    assert critic.flops["fake"] == 4 * forward  # three, and real samples for the heads


@pytest.mark.parametrize(("target", "devices"), [("v6e:2x2", 4), ("tpu7x:2x2x1", 8)])
def test_a_price_is_that_of_a_chip_whatever_devices_it_has(target, devices):
    found = parse_target(target)
    assert found.devices == devices
    assert devices * command.priced(found.chip, 3.0).price == 4 * 3.0
    assert command.priced(found.chip, None) == found.chip


@pytest.mark.parametrize("price", [-1.0, math.nan, math.inf])
def test_what_is_no_price_is_refused(price):
    with pytest.raises(InputError, match="give dollars per chip and hour, 0 or more"):
        command.priced(parse_target("v6e:2x2").chip, price)


def test_a_plan_weighs_places_and_prices_a_program_and_remembers_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "simulate_devices", lambda number: None)
    command.run(options(tmp_path), OVERRIDES)
    (guide,) = json.loads(capsys.readouterr().out)["programs"]
    assert guide["fits"] and guide["need_bytes"] > sum(guide["bytes_by_role"].values()) > 0
    gathers = [c for c in guide["collectives"] if c["kind"] == "all-gather"]
    assert any("fsdp" in c["axes"] for c in gathers) and guide["dcn_bytes"] == 0
    state = guide["bytes_by_role"]
    # Adam keeps two numbers for each weight; the table of places is not trained.
    assert state["student/params"] < state["student/opt"] < 2.1 * state["student/params"]
    assert state["student/ema"] == state["student/params"]
    hours = guide["step_seconds"] * guide["calls"] / 3600
    assert math.isclose(guide["cost"], hours * 8 * 2.0) and 0 < guide["mfu"] <= 1

    def never(*arguments, **more):
        raise AssertionError("compiled again")

    monkeypatch.setattr(command, "compile_program", never)
    command.run(options(tmp_path, json=False), OVERRIDES)
    text = capsys.readouterr().out
    assert "all-gather" in text and "roofline" in text and "fits" in text
    with pytest.raises(AssertionError, match="compiled again"):
        command.run(options(tmp_path), [*OVERRIDES, "guide.job.batch_size=16"])


def test_text_encoders_of_a_program_of_their_own_are_parameters_not_a_batch(tmp_path):
    options(tmp_path)
    config = configs.load(str(tmp_path / "small.py"), OVERRIDES)
    (text,) = programs.programs(config, open_devices(parse_target("cpu:8")), ("text",))
    roles = role_bytes(text)
    encoders = trees.flatten(text.arguments[0]).values()
    assert roles["text (frozen)"] == sum(programs.device_bytes(leaf) for leaf in encoders) > 1e6
    assert roles["batch"] < 1e6


def test_what_a_plan_cannot_know_is_asked_for():
    config = configs.load("configs/nano.py", ["teacher.source=/data/sd3.5_medium.safetensors"])
    with pytest.raises(InputError, match=r"model.name.*sd35_medium"):
        programs.programs(config, jax.devices())
    with pytest.raises(InputError, match="--programs merge: choose of text, guide"):
        programs.programs(configs.load("configs/nano.py"), jax.devices(), ("merge",))


@pytest.mark.parametrize(
    ("recipe", "platform", "kernel"),
    [
        ("sd35_medium_v6e_64", "tpu", "tpu_custom_call"),
        ("sd35_medium_h100_64", "cuda", "__cudnn$fmhaSoftmaxBackward"),
    ],
)
def test_a_recipes_program_has_the_attention_of_its_machine(recipe, platform, kernel, monkeypatch):
    """The lowered guidance step of SD3.5-Medium's width, for a machine that is not here."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
    cut = ["model.depth=3", "match.heads.taps=(0,2)", "mesh.fsdp=8", "guide.job.batch_size=8"]
    config = configs.load(f"configs/{recipe}.py", cut)
    (guide,) = programs.programs(config, jax.devices(), ("guide",))
    text = guide.step.trace(*guide.arguments).lower(lowering_platforms=(platform,)).as_text()
    assert kernel in text


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"name": "guide", "compile_seconds": "1"}'])
def test_a_result_that_is_broken_is_one_line(content, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"x\.json") as caught:
        command.compile_or_recall(None, path, None, {}, 0)
    assert "\n" not in str(caught.value)
