"""`quantize --source` for whole pipelines: what a runtime needs beside the transformer."""

from collections.abc import Sequence
from pathlib import Path

from flashjax.convert import folder as folders
from flashjax.convert.adapters import Lora, with_loras
from flashjax.convert.pipeline import Parts, assemble
from flashjax.convert.table import AS_STORED
from flashjax.data.tokenizers import check_fits, load_tokenizers
from flashjax.quantize.formats import Model
from flashjax.quantize.graphs.pipelines import COMPANIONS, write_whole
from flashjax.sources import home_of, kind_of, read_parts


def write_pipeline(
    format_name: str,
    model: Model,
    source: Path,
    out: Path,
    *,
    base: Path | None,
    loras: Sequence[Lora] = (),
) -> Path:
    """Writes a format of PIPELINES; what `source` lacks is that of `base`. Returns the folder.

    The products of `loras` are added to text encoders; `model` has them already. InputError for
    networks or tokenizers that do not fit each other: nothing could draw with them.
    """
    home = home_of(source, base)
    companions = read_companions(source, home, loras)
    where = str(source) if home == source else f"{source} with {home}"
    whole = assemble({"transformer": ({}, model.config), **companions}, where=where)
    text = whole.text_config
    check_fits(load_tokenizers(home), text.vocabularies, str(home), places=text.places)
    return write_whole(
        format_name,
        model,
        companions,
        out,
        schedule=folders.settings(home)["schedule"],
        tokenizers_from=home,
    )


def read_companions(source: Path, home: Path, loras: Sequence[Lora] = ()) -> Parts:
    """Text encoders and autoencoder, as stored: the source's own, else those of `home`."""
    own: Parts = {}
    if kind_of(source) in ("single", "gguf"):
        known = folders.read_configs(home)
        own = read_parts(source, known=known, place=lambda _: AS_STORED, names=COMPANIONS)
    missing = [name for name in COMPANIONS if name not in own]
    parts = folders.read_parts(home, place=lambda _: AS_STORED, names=missing) | own
    return with_loras(parts, loras, place=lambda _: AS_STORED, beside=("transformer",))
