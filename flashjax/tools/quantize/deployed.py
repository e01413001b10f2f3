"""A picture by any runtime: it brings the velocity, a pipeline's folder brings all else.

Three lines with ONNX Runtime, OpenVINO or MLX: `flashjax/assets/deploy.md` has them.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from flashjax.convert import folder as folders
from flashjax.convert.pipeline import ABSENT_T5_TOKENS, NETWORKS
from flashjax.data.tokenizers import check_fits, load_tokenizers
from flashjax.evaluate.sample import draw_noise
from flashjax.flow.schedule import student_sigmas
from flashjax.models import vae
from flashjax.models.text import AbsentT5, TextConfig, encode_text
from flashjax.quantize.graphs.graph import INPUTS


def picture(
    velocity: Callable[..., np.ndarray],
    prompt: str,
    *,
    base: Path | str,
    steps: int = 4,
    seed: int = 0,
) -> Image.Image:
    """Draws `prompt` without guidance; the noise of `seed` is that of `flashjax sample`.

    `velocity` takes the arrays `hidden_states` "b c h w", `encoder_hidden_states`,
    `pooled_projections` and `timestep` by name, all float32, and returns "b c h w". Tokenizers,
    text encoders, autoencoder and shift are those of the pipeline's folder `base`.
    """
    home = Path(base)
    parts = folders.read_parts(home, names=[name for name in NETWORKS if name != "transformer"])
    transformer, settings = folders.read_configs(home)["transformer"], folders.settings(home)
    params = {name: part for name, (part, _) in parts.items()}
    sizes = {name: config for name, (_, config) in parts.items()}
    absent = AbsentT5(transformer.text_width, ABSENT_T5_TOKENS)
    text_config = TextConfig(sizes["clip_l"], sizes["clip_g"], sizes.get("t5", absent))
    tokenizer = load_tokenizers(home)
    check_fits(tokenizer, text_config.vocabularies, str(home), places=text_config.places)
    tokens = tokenizer([prompt])
    cond = jax.jit(lambda text, tokens: encode_text(text_config, text, tokens))(params, tokens)
    given = dict(zip(INPUTS[1:3], (np.asarray(cond.text), np.asarray(cond.pooled)), strict=True))
    side = settings["sample_size"]
    shift = settings["schedule"].shift_of((side // transformer.patch) ** 2)
    x = draw_noise(seed, 1, (side, side, transformer.channels)).transpose(0, 3, 1, 2)
    for sigma, following in itertools.pairwise(student_sigmas(steps, shift)):
        level = np.full(1, 1000 * sigma, np.float32)
        out = velocity(**{INPUTS[0]: x, **given, INPUTS[3]: level})
        x = x + (following - sigma) * np.asarray(out)
    decode = jax.jit(lambda params, x: vae.decode(sizes["vae"], params, x))
    decoded = np.asarray(decode(params["vae"], x.transpose(0, 2, 3, 1)))[0]
    return Image.fromarray(((decoded + 1) * 127.5 + 0.5).astype(np.uint8))
