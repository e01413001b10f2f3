"""The student's own trajectory: Euler steps on its grid, and the teacher's along one segment.

Letters: b batch, h w c latents, s student steps.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from flashjax.flow.guidance import Velocity, guided
from flashjax.flow.path import along, to_noise, to_x0
from flashjax.flow.solvers import euler
from flashjax.models.halved import told
from flashjax.train.state import Frozen
from flashjax.types import Cond, InputError, Params


def roll_out(
    velocity: Velocity,
    params: Params,
    x: Array,
    sigmas: Array,
    cond: Cond,
    *,
    first: Array | int,
    upto: Array,
) -> Array:
    """The student's state before step `upto`, from its state `x` before step `first`; no gradient.

    `upto` is one step for the whole batch, so that no network call is spent on states that nobody
    asks for.
    """
    size = x.shape[0]

    def step(index: Array, x: Array) -> Array:
        sigma = jnp.full((size,), sigmas[index])
        return x + (sigmas[index + 1] - sigmas[index]) * velocity(params, x, sigma, cond)

    return jax.lax.stop_gradient(jax.lax.fori_loop(first, upto, step, x))


@flax.struct.dataclass
class StudentStep:
    """A step of the student: the grid that it belongs to, its index, the first of its branch.

    A grid "s+1" may end in more than one 0; its steps are its levels above 0. `halved` says that
    each is two of the student's own at once.
    """

    sigmas: Array
    index: Array
    first: Array
    halved: Array | bool = False


def draw_step(key: Array, sigmas: Array, span: Array, *, halved: float) -> StudentStep:
    """One step of the span for the whole batch; a share `halved` of the steps takes two at once.

    Those begin within the span, too: of one that has no place for them every step is a single one.
    """
    first, number = span
    index = first + jax.random.randint(key, (), 0, number)
    if not halved:
        return StudentStep(sigmas, index, first)
    half = jnp.zeros_like(sigmas).at[: len(sigmas[::2])].set(sigmas[::2])
    begins = (first + 1) // 2
    double = jnp.maximum(index // 2, begins)
    take_two = jax.random.bernoulli(jax.random.fold_in(key, 1), halved)
    take_two &= 2 * double < first + number
    grid = jnp.where(take_two, half, sigmas)
    index, first = jnp.where(take_two, double, index), jnp.where(take_two, begins, first)
    return StudentStep(grid, index, first, take_two)


def student_input(
    velocity: Velocity,
    params: Params,
    frozen: Frozen,
    step: StudentStep,
    cond: Cond,
    *,
    noise: Array,
) -> Array:
    """The student's own state before a step: frozen steps up to its branch, then its own.

    `params` have been told of the step's grid, as the frozen ones are here.
    """
    first: Array | int = 0
    if frozen.student is not None:
        first, before = step.first, told(frozen.student, step.halved)
        noise = roll_out(velocity, before, noise, step.sigmas, cond, first=0, upto=first)
    return roll_out(velocity, params, noise, step.sigmas, cond, first=first, upto=step.index)


@flax.struct.dataclass
class Taken:
    """What a student did, with its gradient: a sample, and the step whose trajectory is learnt.

    `x0` and `noise` are both ends of the line of the step `at`. `velocity` is that of the step from
    `start`, which is x and sigma "b", to the level `next_sigma` "b": the same step, or the first.
    """

    x0: Array
    noise: Array
    at: StudentStep
    velocity: Array
    start: tuple[Array, Array]
    next_sigma: Array


def take_step(
    velocity: Velocity, params: Params, frozen: Frozen, at: StudentStep, cond: Cond, noise: Array
) -> Taken:
    """One step of the student, from where its own trajectory has come to without a gradient."""
    params = told(params, at.halved)
    x = student_input(velocity, params, frozen, at, cond, noise=noise)
    sigma, next_sigma = (jnp.full(x.shape[:1], at.sigmas[at.index + k]) for k in (0, 1))
    found = velocity(params, x, sigma, cond)
    ends = to_x0(found, x, sigma), to_noise(found, x, sigma)
    return Taken(*ends, at, found, (x, sigma), next_sigma)


def take_all(velocity: Velocity, params: Params, sigmas: Array, cond: Cond, noise: Array) -> Taken:
    """All steps of the student: the sample has the gradient of every step but the first.

    The first step has its trajectory to learn, and lays out the picture; what comes after it is
    matched. Source: DP-DMD, which keeps diversity so.
    """
    if len(sigmas) < 3:
        raise InputError("match.match.through=True has no later steps in a student of one step")
    levels = [jnp.full(noise.shape[:1], sigma) for sigma in sigmas]
    first = velocity(params, noise, levels[0], cond)
    x = jax.lax.stop_gradient(noise + (sigmas[1] - sigmas[0]) * first)
    last = len(sigmas) - 2
    for k in range(1, last):
        x = x + (sigmas[k + 1] - sigmas[k]) * velocity(params, x, levels[k], cond)
    found = velocity(params, x, levels[last], cond)
    ends = to_x0(found, x, levels[last]), to_noise(found, x, levels[last])
    at = StudentStep(sigmas, jnp.int32(last), jnp.int32(0))
    return Taken(*ends, at, first, (noise, levels[0]), levels[1])


def make_teacher_segment(
    velocity: Velocity, *, guidance_scale: float, substeps: int
) -> Callable[[Params, Array, Array, Array, Cond, Cond], Array]:
    """Builds `segment(teacher, x, sigma, next_sigma, cond, uncond) -> x at next_sigma`.

    The guided teacher takes `substeps` equal Euler steps from `sigma` "b" to `next_sigma` "b".
    """
    teach = guided(velocity, guidance_scale)

    def segment(
        teacher: Params, x: Array, sigma: Array, next_sigma: Array, cond: Cond, uncond: Cond
    ) -> Array:
        share = jnp.linspace(0.0, 1.0, substeps + 1)[:, None]
        grid = sigma[None, :] + share * (next_sigma - sigma)[None, :]
        end = euler(lambda x, sigma: teach(teacher, x, sigma, cond, uncond), x, grid)
        return jax.lax.stop_gradient(end)

    return segment


def make_teacher_passes(
    velocity: Velocity, *, guidance_scale: Array | float, substeps: int
) -> Callable[..., tuple[Array, Array]]:
    """Builds `passes(teacher, point, start, next_sigma, cond, uncond) -> (velocity, end)`.

    `point` and `start` are pairs of `x` and `sigma` "b". The guided teacher's velocity at `point`,
    and the end of its segment from `start`, come from one loop: the program holds the teacher once.
    """
    teach = guided(velocity, guidance_scale)

    def passes(
        teacher: Params,
        point: tuple[Array, Array],
        start: tuple[Array, Array],
        next_sigma: Array,
        cond: Cond,
        uncond: Cond,
    ) -> tuple[Array, Array]:
        x, sigma = start
        stride = (next_sigma - sigma) / substeps

        def one(here: Array, number: Array) -> tuple[Array, Array]:
            level = jnp.where(number == 0, point[1], sigma + (number - 1) * stride)
            found = teach(teacher, here, level, cond, uncond)
            return jnp.where(number == 0, x, here + along(stride, x) * found), found

        end, found = jax.lax.scan(one, point[0], jnp.arange(substeps + 1))
        return jax.lax.stop_gradient((found[0], end))

    return passes
