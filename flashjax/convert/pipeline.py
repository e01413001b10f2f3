"""All networks of one model, whatever files they come from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from flashjax.convert.table import FLOAT32, Placement
from flashjax.flow.schedule import Schedule
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.text import AbsentT5, TextConfig
from flashjax.models.vae import VAEConfig
from flashjax.types import InputError, Params

NETWORKS = ("transformer", "vae", "clip_l", "clip_g", "t5")
ABSENT_T5_TOKENS = 256  # zeros, as diffusers has them where T5 is left out

SD3_SCHEDULE = Schedule(shift=3.0)

# The parameters and the config of some networks, by name.
Parts = dict[str, tuple[Params, Any]]
Place = Callable[[str], Placement]  # how each network is to be kept


T = TypeVar("T")


def read_all(readers: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """What each reader gives. One InputError for all that is wrong with any of them."""
    found, wrong = {}, []
    for name, read in readers.items():
        try:
            found[name] = read()
        except InputError as error:
            wrong.append(str(error))
    if wrong:
        raise InputError("; ".join(wrong))
    return found


def in_float32(name: str) -> Placement:
    """Every network in float32 on the first device."""
    del name
    return FLOAT32


def as_stored(name: str) -> Placement:
    """Every network as its file has it, what is wider or of 8 bits in float32."""
    del name
    return Placement(widest=FLOAT32.dtype)


@dataclass(frozen=True)
class Pipeline:
    """All networks of one model; `text` is {"clip_l", "clip_g", "t5"}, without "t5" where absent.

    `schedule` lays out the sampler's sigmas; `sample_size` is the default side of the latents.
    """

    transformer: Params
    transformer_config: MMDiTConfig
    vae: Params
    vae_config: VAEConfig
    text: Params
    text_config: TextConfig
    schedule: Schedule = SD3_SCHEDULE
    sample_size: int = 128

    def with_parts(self, parts: Parts) -> "Pipeline":
        """The same model with other weights, of the same sizes."""
        networks = {name: params for name, (params, _) in parts.items()}
        text = {name: networks[name] for name in self.text}
        return replace(self, transformer=networks["transformer"], vae=networks["vae"], text=text)

    @property
    def tokens(self) -> int:
        """Image tokens of a picture of the default size."""
        return (self.sample_size // self.transformer_config.patch) ** 2

    @property
    def shift(self) -> float:
        """The shift of noise levels at the default size."""
        return self.schedule.shift_of(self.tokens)

    @property
    def parts(self) -> Parts:
        """The networks one by one; T5 only where it is there."""
        text = {
            name: (params, getattr(self.text_config, name)) for name, params in self.text.items()
        }
        return {
            "transformer": (self.transformer, self.transformer_config),
            "vae": (self.vae, self.vae_config),
            **text,
        }


def assemble(
    parts: Mapping[str, tuple[Params, Any]],
    *,
    where: str,
    schedule: Schedule = SD3_SCHEDULE,
    sample_size: int = 128,
    absent_t5: int = ABSENT_T5_TOKENS,
) -> Pipeline:
    """One model of its networks; without T5 its tokens are `absent_t5` zeros.

    InputError lists the networks that `where` lacks.
    """
    missing = [name for name in NETWORKS if name not in parts and name != "t5"]
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing)}: give --base a pipeline's folder")
    transformer, transformer_config = parts["transformer"]
    vae, vae_config = parts["vae"]
    absent = AbsentT5(transformer_config.text_width, absent_t5)
    text_config = TextConfig(
        parts["clip_l"][1], parts["clip_g"][1], parts["t5"][1] if "t5" in parts else absent
    )
    _check_widths(where, transformer_config, vae_config, text_config)
    return Pipeline(
        transformer=transformer,
        transformer_config=transformer_config,
        vae=vae,
        vae_config=vae_config,
        text={name: parts[name][0] for name in ("clip_l", "clip_g", "t5") if name in parts},
        text_config=text_config,
        schedule=schedule,
        sample_size=sample_size,
    )


def _check_widths(where: str, transformer: MMDiTConfig, vae: VAEConfig, text: TextConfig) -> None:
    """InputError where networks do not fit on each other: they are of different models."""
    clips, channels = text.clip_l.width + text.clip_g.width, transformer.channels
    widths = {  # what comes in, and what the transformer takes
        "pooled text": (text.pooled_width, transformer.pooled_width),
        "T5's tokens": (text.t5.width, transformer.text_width),
        "CLIP's tokens": (max(clips, transformer.text_width), transformer.text_width),
        "the autoencoder's latents": (vae.latent_channels, channels),
    }
    for name, (given, taken) in widths.items():
        if given != taken:
            raise InputError(
                f"{where}: {name} have {given} numbers, the transformer takes {taken}; they are of "
                "different models"
            )
