"""What `teach` and `slim` share: the training of an autoencoder on pictures, on one device."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.checkpoint import save_params
from flashjax.data.pipeline import batches
from flashjax.models import layers
from flashjax.models.vae import VAE, VAEConfig
from flashjax.parallel.sharding import abstract_on
from flashjax.stages.encoding import to_unit
from flashjax.stages.training import JobConfig, descent_of, run_job, show_parameters
from flashjax.train.average import AverageConfig
from flashjax.train.state import init_state
from flashjax.types import Params


def train_autoencoder(
    name: str,
    config: ConfigDict,
    sizes: VAEConfig,
    images: np.ndarray,
    folder: Path,
    make_step: Callable[..., Callable[..., Any]],
    *frozen: Params,
) -> Params:
    """The averaged weights, trained on uint8 images "n H W 3"; they are kept in folder/params.

    The section `name` of the config has `job`, `optimiser` and `kl_weight`;
    `make_step(descent, kl_weight=…)` builds `step(state, *frozen, images, key)`.
    """
    job = configs.section(config, f"{name}.job", JobConfig)
    descent = descent_of(config, f"{name}.optimiser", job.steps, AverageConfig(decay=0.99))
    key = jax.random.key(config.seed)

    def init() -> Any:
        params = layers.init(VAE(sizes), key, jnp.zeros((1, *images.shape[1:])))
        return init_state(params, descent)

    abstract = jax.eval_shape(init)
    show_parameters(abstract.learner.params)
    # A fixed place, as frozen weights have: a step is compiled anew where that changes.
    here = jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), abstract)
    advance = jax.jit(make_step(descent, kl_weight=config[name].kl_weight), donate_argnums=0)
    state = run_job(
        name,
        folder,
        job,
        step=lambda state, batch: advance(state, *frozen, to_unit(np.asarray(batch)), key),
        init=jax.jit(init, out_shardings=here),
        abstract=abstract_on(abstract, here),
        data=batches(images, batch_size=job.batch_size, seed=config.seed),
    )
    save_params(folder / "params", state.learner.ema)
    return state.learner.ema
