"""Our two steps of distribution matching at one size, without data, and what they draw.

Heads, trajectory loss and the pull of the fake score are off: what is left is what any framework
can be asked for. Letters: b batch, h w c latents, m text tokens, p pooled.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from flashjax import trees
from flashjax.convert.transformer import abstract_transformer
from flashjax.flow.schedule import SigmaDensity, student_sigmas
from flashjax.models.attention import cudnn_attend
from flashjax.models.flops import mmdit_flops
from flashjax.models.layers import Attend, attend
from flashjax.models.mmdit import MMDiT, MMDiTConfig, features_of, velocity_of
from flashjax.models.variants import MMDIT, NANO_LENGTH, SD3_TEXT
from flashjax.stages.compute import DTYPES, Compute, compute_of
from flashjax.tools import sections
from flashjax.tools.bench.steps import SPREAD, scattered
from flashjax.train.arms import MatchConfig, draw_levels, matching_point
from flashjax.train.flops import critic_flops, student_flops
from flashjax.train.match import (
    Networks,
    make_critic_loss,
    make_critic_step,
    make_student_loss,
    make_student_step,
)
from flashjax.train.optim import OptimiserConfig, make_optimiser
from flashjax.train.rollout import StudentStep
from flashjax.train.state import Descent, Frozen, MatchState
from flashjax.types import Batch, Cond, InputError, Params

STEPS, SHIFT = 4, 3.0  # of the student's grid
DRAWN = {"student": 1, "critic": 3}  # the step of the grid that is drawn: roll-outs of so many
CRITICS = 5  # of a student's step: one outer iteration
RATE = 1e-6
MATCH = MatchConfig(
    eta=0.0,
    guidance_scale=4.5,
    density=SigmaDensity(),
    shared_share=0.25,
    adversarial_weight=0.0,
    trajectory_weight=0.0,
    trajectory_substeps=1,
    head_reset=0.0,
    fake_pull=0.0,
    drop_t5=0.0,
    halved=0.0,
)
PARTS = ("forward", "gradient", "student", "critic")
Calls: TypeAlias = dict[str, Callable[[], Any]]  # by part: each does its work before it returns


@dataclasses.dataclass(frozen=True)
class Case:
    """A size: the transformer, the latents' side, text tokens and samples of a batch."""

    name: str
    sizes: MMDiTConfig
    side: int
    text: int
    batch: int

    @property
    def latents(self) -> tuple[int, ...]:
        """The shape "b h w c" of a batch."""
        return self.batch, self.side, self.side, self.sizes.channels

    def flops(self) -> dict[str, float]:
        """Operations of each part for the whole batch, by the count of the training's own log."""
        image = (self.side // self.sizes.patch) ** 2
        forward = self.batch * mmdit_flops(self.sizes, image=image, text=self.text)
        student = student_flops(MATCH, forward, 0.0, before=DRAWN["student"])
        critic = critic_flops(MATCH, forward, 0.0, before=DRAWN["critic"])
        steps = {"student": sum(student.values()), "critic": sum(critic.values())}
        return {"forward": forward, "gradient": 3 * forward} | steps


def case_of(text: str) -> Case:
    """The size that `NAME/PIXELS[+TEXT]/BATCH` or `WIDTH/DEPTH/IMAGE+TEXT/BATCH` says.

    Half of the blocks of the second form are dual. InputError for what is neither.
    """
    named = re.fullmatch(r"(\w+)/(\d+)(?:\+(\d+))?/(\d+)", text)
    if named and named[1] in MMDIT:
        sizes, side, batch = MMDIT[named[1]], int(named[2]) // 8, int(named[4])
        usual = 2 * NANO_LENGTH if named[1] == "nano" else SD3_TEXT.clip_l.length + 256
        tokens = int(named[3] or usual)
        if int(named[2]) % 16 == 0 and 0 < side <= 2 * sizes.position_size and batch:
            return Case(text, sizes, side, tokens, batch)
    free = re.fullmatch(r"(\d+)/(\d+)/(\d+)\+(\d+)/(\d+)", text)
    if free:
        width, depth, image, tokens, batch = map(int, free.groups())
        rows = math.isqrt(image)
        if width and width % 64 == 0 and depth > 1 and image and rows**2 == image and batch:
            sizes = dataclasses.replace(
                MMDIT["nano"],
                depth=depth,
                heads=width // 64,
                dual=depth // 2,
                position_size=max(16, rows),
            )
            return Case(text, sizes, 2 * rows, tokens, batch)
    raise InputError(
        f"--size {text}: give NAME/PIXELS/BATCH with a name of {', '.join(MMDIT)}, or "
        "WIDTH/DEPTH/IMAGE+TEXT/BATCH with a multiple of 64, two blocks or more, a square of image "
        "tokens and some text tokens, as nano/64/32 or 256/6/64+24/32"
    )


def sigmas_of() -> Array:
    """The student's grid."""
    return jnp.asarray(student_sigmas(STEPS, SHIFT))


def compute_with(config: str | None, overrides: list[str]) -> Compute:
    """The section `compute` of a config, or its defaults where there is none."""
    if not config:
        return Compute()
    loaded = sections.load(config, overrides)
    sections.check(loaded, "bench")
    return compute_of(loaded)


def transformer_of(sizes: MMDiTConfig, compute: Compute) -> MMDiT:
    """The network as `compute` has it, on one device. InputError for another machine's kernel."""
    kernels = kernels_here()
    if compute.attention not in kernels:
        raise InputError(
            f"compute.attention={compute.attention}: one device of this machine has "
            f"{', '.join(kernels)}; set compute.attention so"
        )
    return MMDiT(compute.applied(sizes), attend=kernels[compute.attention])


def kernels_here() -> dict[str, Attend]:
    """The attentions of models/attention.py that one device of this machine has, by name."""
    found: dict[str, Attend] = {"xla": attend}
    if jax.default_backend() == "gpu":
        found["cudnn"] = cudnn_attend
    if jax.default_backend() == "tpu":
        from flashjax.models.splash import splash_attend  # Pallas takes a second to import

        found["splash"] = splash_attend
    return found


def random_params(sizes: MMDiTConfig, seed: int) -> Params:
    """Weights of a transformer in fp32."""
    return random_tree(abstract_transformer(sizes), seed)


def random_tree(abstract: Params, seed: int) -> Params:
    """Weights in fp32 that look random: no projection is 0, as those of a new model are."""

    def fill(path: str, leaf: Any) -> Array:
        numbers = SPREAD * jnp.sin(scattered(leaf.shape) * (100.0 / SPREAD) + seed)
        return numbers + (1.0 if path.endswith("/scale") else 0.0)

    filled = [fill(*named) for named in trees.flatten(abstract).items()]
    return jax.tree.unflatten(jax.tree.structure(abstract), filled)


@functools.partial(jax.jit, static_argnums=0)
def random_batch(case: Case) -> tuple[Batch, Cond]:
    """A batch with encoded captions, and the conditioning of the empty one."""
    keys = jax.random.split(jax.random.key(1), 5)

    def conditioned(batch: int, text: Array, pooled: Array) -> Cond:
        sizes = case.sizes
        return Cond(
            jax.random.normal(text, (batch, case.text, sizes.text_width)),
            jax.random.normal(pooled, (batch, sizes.pooled_width)),
        )

    latents = jax.random.normal(keys[0], case.latents)
    cond, empty = conditioned(case.batch, *keys[1:3]), conditioned(1, *keys[3:])
    return Batch(latents, cond), empty


@functools.partial(jax.jit, static_argnums=(0, 1))
def begin(sizes: MMDiTConfig, stored: jnp.dtype) -> tuple[MatchState, Params]:
    """The state before the first step, and the teacher as it is stored: one program makes all."""
    descent = make_descent()
    student, fake = (descent.start(random_params(sizes, n)) for n in (1, 2))
    heads = descent.start(no_heads(jax.random.key(0)))
    teacher = trees.cast(random_params(sizes, 3), stored)
    return MatchState(jnp.zeros((), jnp.int32), student, fake, heads), teacher


def no_heads(key: Array) -> Params:
    """What stands for the heads, which nobody asks: their weight is 0."""
    del key
    return {"none": jnp.zeros((1, 1))}


class Draws(NamedTuple):
    """What a step draws: its noise "b h w c", the levels "b", and the point's own fresh part.

    The student's point is `(1 - level) x0 + kept noise' + fresh`, the critic's is
    `(1 - level) x0 + kept fresh`, `kept` being "b".
    """

    noise: Array
    level: Array
    kept: Array
    fresh: Array


@functools.partial(jax.jit, static_argnums=1)
def student_draws(key: Array, shape: tuple[int, ...]) -> Draws:
    """What the student's loss draws with this key: its point is linear in both ends of the line."""
    _, noise_key, match_key, *_ = jax.random.split(key, 5)
    at = StudentStep(sigmas_of(), jnp.int32(DRAWN["student"]), jnp.int32(0))
    nothing, ones = jnp.zeros(shape), jnp.ones(shape)
    fresh, level = matching_point(nothing, nothing, at, match_key, MATCH)
    both, _ = matching_point(nothing, ones, at, match_key, MATCH)
    return Draws(jax.random.normal(noise_key, shape), level, (both - fresh)[:, 0, 0, 0], fresh)


@functools.partial(jax.jit, static_argnums=1)
def critic_draws(key: Array, shape: tuple[int, ...]) -> Draws:
    """What the critic's loss draws with this key."""
    _, noise_key, loss_key, *_ = jax.random.split(key, 5)
    sigma_key, fresh_key = jax.random.split(loss_key)
    level = draw_levels(sigma_key, shape[0], MATCH, sigmas_of())
    fresh = jax.random.normal(fresh_key, shape)
    return Draws(jax.random.normal(noise_key, shape), level, level, fresh)


@dataclasses.dataclass
class Ours:
    """Our networks and programs of one case; `state` moves with every step."""

    case: Case
    compute: Compute

    def __post_init__(self) -> None:
        model = transformer_of(self.case.sizes, self.compute)
        self.nets = Networks(
            velocity=velocity_of(model),
            features=features_of(model, (0,)),
            heads=lambda params, tokens, height: tokens,
            init_heads=no_heads,
            text=SD3_TEXT,  # never asked: captions come encoded, and none is dropped
        )
        self.batch, self.empty = random_batch(self.case)

    def frozen(self, part: str, teacher: Params) -> Frozen:
        """The teacher, and a span of the one step that the part draws."""
        span = jnp.array([DRAWN[part], 1], jnp.int32)
        return Frozen(teacher=teacher, student=None, text={}, empty=self.empty, span=span)

    def start(self) -> tuple[MatchState, Params]:
        """The state before the first step, and the teacher."""
        return begin(self.case.sizes, DTYPES[self.compute.teacher_dtype])

    def gradients(self, part: str, key: Array) -> tuple[Array, Params]:
        """The loss of a part's first step and its gradient, of the student or the fake score."""
        state, teacher = self.start()
        frozen = self.frozen(part, teacher)
        if part == "student":
            loss_of = make_student_loss(self.nets, MATCH, sigmas_of())
            given = (state.student.params, state)
        else:
            loss_of = make_critic_loss(self.nets, MATCH, sigmas_of())
            learned = {"fake": state.fake.params, "heads": state.heads.params}
            given = (learned, state.student.params)
        run = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
        (loss, _), found = run(*given, frozen, self.batch, key)
        return loss, found if part == "student" else found["fake"]

    def calls(self, parts: tuple[str, ...]) -> Calls:
        """The parts, compiled when they are first called."""
        state, teacher = self.start()
        held, key = [state], jax.random.key(0)
        descent, sigmas, nets = make_descent(), sigmas_of(), self.nets
        level = jnp.full((self.case.batch,), 0.5)

        def forward(params: Params, x: Array, cond: Cond) -> Array:
            return jnp.mean(jnp.square(nets.velocity(params, x, level, cond)))

        pure = {"forward": jax.jit(forward), "gradient": jax.jit(jax.grad(forward))}
        steps = {
            "student": make_student_step(nets, descent, MATCH, sigmas),
            "critic": make_critic_step(nets, descent, descent, MATCH, sigmas),
        }

        def alone(part: str) -> Callable[[], Any]:
            run, x = pure[part], self.batch.latents
            return lambda: jax.block_until_ready(run(held[0].student.params, x, self.batch.tokens))

        def stepped(part: str) -> Callable[[], Any]:
            run, frozen = jax.jit(steps[part], donate_argnums=0), self.frozen(part, teacher)

            def call() -> Any:
                held[0], metrics = run(held[0], frozen, self.batch, key)
                return jax.block_until_ready((held[0], metrics))[1]

            return call

        return {part: (alone if part in pure else stepped)(part) for part in parts}


def make_descent() -> Descent:
    """AdamW at a constant rate, clipped; no average."""
    return Descent(make_optimiser(OptimiserConfig(learning_rate=RATE), 1000))
