"""A toy world for the steps: real text encoders, and a velocity small enough to check by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashjax.flow.schedule import SigmaDensity
from flashjax.models.clip import CLIPConfig, CLIPText
from flashjax.models.t5 import T5Config, T5Encoder
from flashjax.models.text import TextConfig
from flashjax.train.average import AverageConfig
from flashjax.train.match import MatchConfig, Networks
from flashjax.train.state import Descent, Frozen, MatchState
from flashjax.types import Batch, Tokens

BATCH, SIDE, CHANNELS, WIDTH = 3, 2, 3, 5
CLIP = {"vocabulary": 9, "length": 3, "width": 4, "depth": 1, "heads": 1, "hidden": 4}
TEXT = TextConfig(
    clip_l=CLIPConfig(**CLIP, activation="quick_gelu"),
    clip_g=CLIPConfig(**CLIP, activation="gelu", projection=4),
    t5=T5Config(vocabulary=9, width=8, depth=1, heads=1, head_width=4, hidden=4),
)


def features(params, x, sigma, cond):
    """A two-layer velocity, and the two "taps" of its hidden layer; "time_2" as in an MMDiT."""
    pooled, text = cond.pooled @ params["pooled"], jnp.mean(cond.text, axis=1) @ params["text"]
    shift = pooled + text + sigma[:, None] * params["sigma"] + params["time_2"]["bias"]
    hidden = jnp.tanh(x @ params["inner"] + shift[:, None, None, :])
    tokens = hidden.reshape(x.shape[0], -1, WIDTH)
    return hidden @ params["outer"], jnp.stack([tokens, tokens**2])


def velocity(params, x, sigma, cond):
    return features(params, x, sigma, cond)[0]


def heads(params, tokens, *, height):
    assert tokens.shape[2] % height == 0  # rows of the picture that the tokens show
    pool = params["pool"]
    return jnp.einsum("tbnd,td->tbn", tokens, pool["kernel"]) + pool["bias"][:, None, None]


def init_heads(key):
    kernel_key, bias_key = jax.random.split(key)
    kernel = jax.random.normal(kernel_key, (2, WIDTH))
    return {"pool": {"kernel": kernel, "bias": jax.random.normal(bias_key, (2,))}}


def init_velocity(seed):
    shapes = {
        "pooled": (8, WIDTH),
        "text": (8, WIDTH),
        "sigma": (WIDTH,),
        "inner": (CHANNELS, WIDTH),
        "outer": (WIDTH, CHANNELS),
    }
    random = np.random.default_rng(seed)
    params = {name: jnp.float32(random.normal(size=shape)) for name, shape in shapes.items()}
    return params | {"time_2": {"bias": jnp.float32(random.normal(size=WIDTH))}}


def tokens(random, batch):
    return Tokens(*jnp.int32(random.integers(0, 9, (3, batch, 3))))


def draw_like(model, ids):
    """Random parameters of a text encoder, without compiling its initialisation."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), ids)["params"]
    return jax.tree.map(lambda leaf: jnp.float32(0.5 * random.normal(size=leaf.shape)), shapes)


@dataclasses.dataclass(frozen=True)
class World:
    """Networks, frozen parts and a batch; every `init` gives another set of parameters."""

    nets: Networks
    frozen: Frozen
    batch: Batch
    text_params: dict

    @staticmethod
    def init(seed):
        return init_velocity(seed)

    def state(self, tx):
        """Student, fake score and heads, all different, before the first step."""
        return MatchState(
            step=jnp.int32(0),
            student=Descent(tx, AverageConfig()).start(init_velocity(1)),
            fake=Descent(tx).start(init_velocity(3)),
            heads=Descent(tx).start(init_heads(jax.random.key(4))),
        )

    def spanning(self, first, number):
        """The frozen parts for a branch that learns `number` steps from `first` on."""
        return self.frozen.replace(span=jnp.array([first, number], jnp.int32))

    @staticmethod
    def config(**changes):
        default = MatchConfig(
            eta=0.0,
            guidance_scale=3.0,
            density=SigmaDensity(0.3, 1.0, 3.0),
            shared_share=0.25,
            adversarial_weight=0.5,
            trajectory_weight=0.3,
            trajectory_substeps=2,
            head_reset=0.0,
            fake_pull=0.25,
            drop_t5=0.5,
            halved=0.0,
        )
        return dataclasses.replace(default, **changes)


@pytest.fixture(scope="session")
def world():
    """The toy world."""
    random = np.random.default_rng(7)
    ids = tokens(random, BATCH)
    text_params = {
        "clip_l": draw_like(CLIPText(TEXT.clip_l), ids.clip_l),
        "clip_g": draw_like(CLIPText(TEXT.clip_g), ids.clip_g),
        "t5": draw_like(T5Encoder(TEXT.t5), ids.t5),
    }
    frozen = Frozen(
        teacher=init_velocity(2),
        student=init_velocity(5),
        text=text_params,
        empty=tokens(random, 1),
        span=jnp.array([0, 4], jnp.int32),
    )
    latents = jnp.float32(random.normal(size=(BATCH, SIDE, SIDE, CHANNELS)))
    return World(
        nets=Networks(velocity, features, heads, init_heads, TEXT),
        frozen=frozen,
        batch=Batch(latents=latents, tokens=ids),
        text_params=text_params,
    )
