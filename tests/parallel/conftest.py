"""A toy of every network, small enough that compiling is all that it costs."""

import dataclasses
import functools
import json
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flashjax.flow.schedule import SigmaDensity, student_sigmas
from flashjax.models.clip import CLIPConfig, CLIPText
from flashjax.models.heads import Heads, HeadsConfig
from flashjax.models.mmdit import MMDiT, MMDiTConfig, features_of, velocity_of
from flashjax.models.t5 import T5Config, T5Encoder
from flashjax.models.text import TextConfig
from flashjax.parallel import hlo
from flashjax.parallel.layout import MMDIT
from flashjax.parallel.program import read_program
from flashjax.parallel.sharding import Constraint, Rules, param_shardings
from flashjax.train.average import AverageConfig
from flashjax.train.guide import GuideConfig, make_guide_step
from flashjax.train.match import MatchConfig, Networks, make_critic_step, make_student_step
from flashjax.train.state import Descent, Frozen, MatchState, init_state
from flashjax.train.teach import TeachConfig, make_teach_step
from flashjax.types import Batch, Cond, Tokens

ONE, EIGHT = {}, {"data": 2, "fsdp": 2, "tensor": 2}
SMALL = MMDiTConfig(  # one dual block and the last one
    depth=2,
    heads=2,
    dual=1,
    position_size=8,
    text_width=16,
    pooled_width=12,
    head_width=8,
    channels=4,
)
FULL = dataclasses.replace(SMALL, depth=3)  # and a plain one between them
HEADS = HeadsConfig(taps=(0, 1), width=4)
CLIP = {"vocabulary": 9, "length": 3, "width": 8, "depth": 1, "heads": 1, "hidden": 4}
TEXT = TextConfig(
    clip_l=CLIPConfig(**CLIP, activation="quick_gelu"),
    clip_g=CLIPConfig(**CLIP, activation="gelu", projection=4),
    t5=T5Config(vocabulary=9, width=16, depth=1, heads=1, head_width=4, hidden=4),
)
# The transformer is split; text encoders and heads are whole on every device.
RULES = Rules(
    params=((r"(pool|clip_l|clip_g|t5)/.*", P()), *MMDIT.params), activations=MMDIT.activations
)
SIGMAS = jnp.asarray(student_sigmas(4, 3.0))
STUDENT = Descent(optax.sgd(0.05, momentum=0.9), AverageConfig(decay=0.9))
CRITIC = Descent(STUDENT.tx)
TOKENS = jnp.zeros((2, 1, 4, SMALL.width))
IDS = jnp.zeros((1, 3), jnp.int32)
COND = Cond(jnp.zeros((1, 6, 16)), jnp.zeros((1, 12)))


def draw(shapes, seed):
    """Random parameters, large enough that every branch of a model matters."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.float32(0.3 * random.normal(size=leaf.shape)), shapes)


@functools.cache
def transformer_shapes(config):
    init = functools.partial(MMDiT(config).init, jax.random.key(0))
    return jax.eval_shape(init, jnp.zeros((1, 4, 4, 4)), jnp.ones(1), COND)["params"]


def draw_transformer(config, seed):
    return draw(transformer_shapes(config), seed)


def draw_text():
    models = {
        "clip_l": CLIPText(TEXT.clip_l),
        "clip_g": CLIPText(TEXT.clip_g),
        "t5": T5Encoder(TEXT.t5),
    }
    return {
        name: draw(jax.eval_shape(model.init, jax.random.key(0), IDS)["params"], 6)
        for name, model in models.items()
    }


def init_heads(key):
    return Heads(HEADS).init(key, TOKENS, rows=2)["params"]


def draw_heads():
    return draw(jax.eval_shape(init_heads, jax.random.key(0)), 4)


def networks(config, mesh):
    """The networks with this mesh's constraints."""
    constrain = Constraint(mesh, RULES)
    model, heads = MMDiT(config, constrain=constrain), Heads(HEADS, constrain=constrain)

    def judge(params, tokens, *, height):
        return heads.apply({"params": params}, tokens, rows=height // config.patch)

    return Networks(velocity_of(model), features_of(model, HEADS.taps), judge, init_heads, TEXT)


def draw_batch():
    random = np.random.default_rng(8)
    tokens = Tokens(*jnp.int32(random.integers(0, 9, (3, 4, 3))))
    return Batch(latents=jnp.float32(random.normal(size=(4, 4, 4, 4))), tokens=tokens)


def draw_frozen(config):
    return Frozen(
        teacher=draw_transformer(config, 1),
        student=draw_transformer(config, 2),
        text=draw_text(),
        empty=Tokens(*(jnp.int32([[1, 2, 3]]),) * 3),
        span=jnp.array([1, 3], jnp.int32),
    )


def teach(nets):
    """State, the steps of one round, and what they read beside state, batch and key."""
    config = TeachConfig(SigmaDensity(), 0.3, (0.3, 0.3, 0.3))
    state = init_state({"transformer": draw_transformer(SMALL, 0), "text": draw_text()}, STUDENT)
    return state, [make_teach_step(nets.velocity, TEXT, STUDENT, config)], draw_frozen(SMALL).empty


def guide(nets):
    config = GuideConfig(guidance_scale=3.0, substeps=2, drop_t5=0.3)
    step = make_guide_step(nets.velocity, TEXT, STUDENT, config, SIGMAS)
    return init_state(draw_transformer(FULL, 0), STUDENT), [step], draw_frozen(FULL)


def match(nets):
    config = MatchConfig(
        eta=0.0,
        guidance_scale=3.0,
        density=SigmaDensity(),
        shared_share=0.3,
        adversarial_weight=0.5,
        trajectory_weight=0.0,  # `guide` has the same term
        trajectory_substeps=2,
        head_reset=0.5,
        fake_pull=0.1,
        drop_t5=0.3,
        halved=0.5,
    )
    state = MatchState(
        step=jnp.int32(0),
        student=STUDENT.start(draw_transformer(SMALL, 0)),
        fake=CRITIC.start(draw_transformer(SMALL, 3)),
        heads=CRITIC.start(draw_heads()),
    )
    critic = make_critic_step(nets, CRITIC, CRITIC, config, SIGMAS)
    return state, [critic, make_student_step(nets, STUDENT, config, SIGMAS)], draw_frozen(SMALL)


def replicated_but_networks(frozen, mesh):
    """The layout of what a step reads: teacher and student split, tokens and text whole."""
    whole = jax.tree.map(lambda _: NamedSharding(mesh, P()), frozen)
    if not isinstance(frozen, Frozen):
        return whole
    layout = param_shardings(jax.eval_shape(lambda: frozen.teacher), MMDIT, mesh)
    return whole.replace(teacher=layout, student=layout)


@pytest.fixture
def toy() -> ModuleType:
    """This module: its sizes, its networks, and the jobs `teach`, `guide` and `match`."""
    return sys.modules[__name__]


GOLDEN = Path(__file__).parents[1] / "golden" / "costs"
AGAIN = "REFRESH_GOLDEN=1 python -m pytest tests/parallel -k cost"
# Products are counted as the program runs them, loops and all. Bytes and memory are XLA's own
# figures of one program: they move a little with its order and fusions, by more than a twentieth
# where an activation is kept or a buffer is not given up.
TOLERANCE = {"product_flops": 0.01, "accessed_bytes": 0.05, "temporary_bytes": 0.05}
PRODUCT = re.compile(r" dot\(%?([\w.\-]+),.*lhs_contracting_dims=\{([\d,]*)\}")


def product_flops(text):
    """Operations of a program's matrix products on one device, loops as often as they run."""
    found = hlo.instructions(text)
    shapes = {(one.within, one.name): one.shapes[0][1] for one in found if one.shapes}
    total = 0.0
    for one in found:
        match = PRODUCT.search(one.line)
        if match:
            inputs = shapes[one.within, match[1]]
            contracted = math.prod(inputs[int(dim)] for dim in match[2].split(","))
            total += 2.0 * one.runs * math.prod(one.shapes[0][1]) * contracted
    return total


def costs_of(compiled, mesh):
    """What a compiled program costs a device: figures, and each kind of collective."""
    text = compiled.as_text()
    program = read_program("", compiled, text, mesh, trips=1.0)
    figures = {
        "argument_bytes": program.argument_bytes,
        "output_bytes": program.output_bytes,
        "temporary_bytes": program.temporary_bytes,
        "accessed_bytes": program.compiled_bytes,
        "product_flops": product_flops(text),
    }
    moved = {
        f"{one.kind} {'+'.join(one.axes)} {one.dtype}": {"runs": one.runs, "bytes": one.bytes}
        for one in program.collectives
    }
    return {"jaxlib": jaxlib.__version__, "figures": figures, "collectives": moved}


def grown(before, now):
    """What differs between two costs by more than it may, a line each."""
    lines = []
    for name, value in now["figures"].items():
        old, allowed = before["figures"][name], TOLERANCE.get(name, 0.0)
        if abs(value - old) > allowed * old:
            share = f" ({100 * (value / old - 1):+.1f} %)" if old else ""
            lines.append(f"{name}: {old:,.0f} -> {value:,.0f}{share}, allowed {100 * allowed:g} %")
    was, are = before["collectives"], now["collectives"]
    for name in sorted(was.keys() | are.keys()):
        if was.get(name) != are.get(name):
            told = [
                f"{one['runs']:g} times {one['bytes']:,.0f} bytes" if one else "none"
                for one in (was.get(name), are.get(name))
            ]
            lines.append(f"{name}: {told[0]} -> {told[1]}")
    return lines


def check_costs(name, compiled, mesh):
    """Fails where a program costs other than its golden file says; says what, and what to do."""
    now, path = costs_of(compiled, mesh), GOLDEN / f"{name}.json"
    if os.environ.get("REFRESH_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(now, indent=1) + "\n")
    before = json.loads(path.read_text())
    lines = grown(before, now)
    versions = f"jaxlib {before['jaxlib']} then, {now['jaxlib']} now; if it is meant: {AGAIN}"
    assert not lines, "\n".join([f"{name} costs other than {path.name} says", *lines, versions])


@pytest.fixture
def same_costs() -> Callable[..., None]:
    """`same_costs(name, compiled, mesh)`: a program costs what it did."""
    return check_costs
