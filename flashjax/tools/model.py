"""`flashjax.load`: any checkpoint from Python. Each method is what the verb of its name does.

Letters: b batch, n pictures, h w c latents, H W pixels, m text tokens, d text width, p pooled.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flashjax.convert.adapters import open_loras
from flashjax.convert.outputs import is_file_name
from flashjax.convert.pipeline import Pipeline
from flashjax.data.prompts import shortened
from flashjax.data.tokenizers import Tokenizer
from flashjax.models.mmdit import MMDiT, velocity_of
from flashjax.models.text import encode_text
from flashjax.sources import base_folder, home_of, kind_of
from flashjax.stages.model import in_run
from flashjax.tools import export
from flashjax.tools.drawing import Drawing, check_negative, draw, open_source, path_of
from flashjax.tools.flags import FLAGS
from flashjax.tools.quantize import command as quantizing
from flashjax.types import Cond, InputError


def load(
    path: str | Path,
    *,
    base: str | Path | None = None,
    lora: Sequence[str] = (),
    dtype: str | None = None,
) -> "Model":
    """The model of any checkpoint; its weights are read when they are first asked for.

    Args:
      path: what `flashjax sample --source` takes: a pipeline's folder in diffusers' layout, its
        transformer folder, a single file, a GGUF, the folder of a stage, or "nano".
      base: a pipeline's folder with the networks and tokenizers that `path` lacks.
      lora: LoRAs to add, each "FILE:SCALE".
      dtype: "float32" or "bfloat16", of weights and computing; by default weights stay as they are
        stored, and are computed with in float32 on CPUs, in bfloat16 elsewhere.

    Raises:
      InputError: `path` is no model, or lacks what `base` does not bring.
    """
    source, folder = path_of(path), base_folder(base)
    if kind_of(source) != "pipeline" and not (folder is None and in_run(source)):
        home_of(source, folder)
    return Model(source, folder, tuple(lora), dtype)


@dataclasses.dataclass(frozen=True)
class Model:
    """A text-to-image flow: transformer, autoencoder, text encoders, tokenizers. `load` makes one.

    Attributes:
      source: where it lies.
      base: the pipeline's folder with what `source` lacks, or None.
      lora: LoRAs that are added, each "FILE:SCALE".
      dtype: of weights and computing, or None: as stored, and the backend's own.
    """

    source: Path
    base: Path | None = None
    lora: tuple[str, ...] = ()
    dtype: str | None = None

    @property
    def pipeline(self) -> Pipeline:
        """All networks: parameters (nested dicts of arrays) and sizes. InputError if not whole."""
        return self._opened[0]

    @property
    def tokenizer(self) -> Tokenizer:
        """Texts to token ids, int32 "b m" for each text encoder. InputError if not whole."""
        return self._opened[1]

    def sample(
        self,
        prompts: str | Sequence[str],
        *,
        steps: int = Drawing.steps,
        guidance_scale: float = Drawing.guidance_scale,
        negative_prompt: str = Drawing.negative_prompt,
        grid: str = Drawing.grid,
        solver: str = Drawing.solver,
        skip_layers: str | None = Drawing.skip_layers,
        size: str | None = Drawing.size,
        seed: int = Drawing.seed,
        batch: int = Drawing.batch,
    ) -> np.ndarray:
        """Pictures uint8 "n H W 3" in [0, 255] of n prompts: those of `flashjax sample`.

        Args:
          prompts: one text, or n.
          steps: of the solver. A student wants its own number, and grid="student".
          guidance_scale: 1 is no guidance, and half the work.
          negative_prompt: what guidance leads away from.
          grid: noise levels: "sampler" (SD3's own) or "student" (that students are trained on).
          solver: "euler" or "dpmpp_2m".
          skip_layers: blocks of skip-layer guidance, as in "7,8,9".
          size: "HEIGHTxWIDTH" in pixels; None is the model's own.
          seed: of the first picture, 0 to 2^63 - 1; picture i has seed + i.
          batch: pictures at a time, on all devices together.

        Raises:
          InputError: a number that nothing can be drawn with, or weights that draw NaN.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not texts:
            raise InputError("prompts is empty: give one text or more")
        drawing = Drawing(
            *(steps, grid, solver, guidance_scale, negative_prompt, skip_layers, size, seed, batch)
        )
        drawing.check(len(texts))
        check_negative([drawing])
        return np.stack(list(draw(self.pipeline, self.tokenizer, texts, drawing)))

    def encode(self, prompts: str | Sequence[str]) -> Cond:
        """What `velocity` is conditioned on, of b prompts: text "b m d" and pooled "b p", float32.

        Raises:
          InputError: the checkpoint is not a whole model.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        return self._encode(self.pipeline.text, self.tokenizer([shortened(t) for t in texts]))

    def velocity(self, x: Array, sigma: Array, cond: Cond) -> Array:
        """The velocity dx/dsigma = noise - x0 "b h w c" at `x` "b h w c" and `sigma` "b".

        `x` is in the latents' own units, channels last; `sigma` is in [0, 1], 0 = data, 1 = noise
        (diffusers' timestep is 1000 sigma). `cond` is that of `encode`, a row for each of `x`.

        Raises:
          InputError: shapes that do not go together.
        """
        x, sigma = jnp.asarray(x), jnp.asarray(sigma, jnp.float32)
        channels = self.pipeline.transformer_config.channels
        if x.ndim != 4 or x.shape[-1] != channels or sigma.shape != x.shape[:1]:
            raise InputError(
                f"x {x.shape} and sigma {sigma.shape}: give b h w {channels}, channels last, and b"
            )
        if len(cond.text) != len(x):
            raise InputError(f"cond has {len(cond.text)} rows and x {len(x)}: give one for each")
        return self._velocity(self.pipeline.transformer, x, sigma, cond)

    def save(
        self,
        path: str | Path,
        *,
        format: str = "",
        dtype: str | None = None,
        title: str = "",
        force: bool = False,
    ) -> Path:
        """Writes the model to PyTorch's formats as `flashjax export` does, and says where it is.

        Args:
          path: a folder, or the one file X.safetensors.
          format: "diffusers" (PATH/diffusers) or "sai" (PATH/model.safetensors, or the file PATH);
            by default what the end of `path` says.
          dtype: "float16", "bfloat16" or "float32"; None keeps each tensor's own.
          title: in the single file's metadata; by default that of a single file that is read.
          force: write over files of others.

        Raises:
          InputError: `path` holds what flashjax did not write, or a weight does not fit `dtype`.
        """
        out = Path(path)
        if dtype is not None and dtype not in export.DTYPES:
            raise InputError(f"dtype {dtype}: choose of {', '.join(export.DTYPES)}")
        (written,) = export.convert(
            self.source,
            out,
            formats=[format or ("sai" if is_file_name(out) else "diffusers")],
            force=force,
            base=self.base,
            dtype=export.DTYPES[dtype] if dtype else None,
            title=title,
            loras=open_loras(self.lora),
        )
        return written

    def quantize(self, path: str | Path, *, format: str, **settings: Any) -> list[Path]:
        """Writes 8- and 6-bit files as `flashjax quantize` does; their paths, a report's last.

        Args:
          path: a folder, or the file of one format.
          format: names with commas between, as in "gguf-q6_k,comfy-int8".
          settings: further flags of the verb, without their dashes: calibrate, size_mb, tune,
            measure, report, samples, steps, position, seed, title, force.

        Raises:
          InputError: a format or setting that nobody knows, or files of others at `path`.
        """
        known = vars(_defaults(FLAGS["quantize"]))
        if unknown := sorted(settings.keys() - known.keys()):
            raise InputError(f"{unknown[0]} is no setting: choose of {', '.join(known)}")
        own = {"source": str(self.source), "lora": list(self.lora), "memory": None}
        own |= {"base": str(self.base) if self.base else None, "out": str(path), "format": format}
        return list(quantizing.write(argparse.Namespace(**known | settings | own)))

    @functools.cached_property
    def _opened(self) -> tuple[Pipeline, Tokenizer]:
        return open_source(self.source, base=self.base, lora=self.lora, dtype=self.dtype)

    @functools.cached_property
    def _velocity(self) -> Callable[..., Array]:
        return jax.jit(velocity_of(MMDiT(self.pipeline.transformer_config)))

    @functools.cached_property
    def _encode(self) -> Callable[..., Cond]:
        return jax.jit(functools.partial(encode_text, self.pipeline.text_config))


def _defaults(add_arguments: Callable[[argparse.ArgumentParser], None]) -> argparse.Namespace:
    """What the flags of a tool are where none is given."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([])
