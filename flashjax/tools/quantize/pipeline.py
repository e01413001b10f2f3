"""`quantize --source` for whole pipelines: what a runtime needs beside the transformer."""

from pathlib import Path

from flashjax.convert import folder as folders
from flashjax.convert.pipeline import Parts
from flashjax.convert.table import AS_STORED
from flashjax.quantize.formats import Model
from flashjax.quantize.graphs.pipelines import COMPANIONS, write_whole
from flashjax.sources import home_of, kind_of, read_parts


def write_pipeline(
    format_name: str, model: Model, source: Path, out: Path, *, base: Path | None
) -> Path:
    """Writes a format of PIPELINES; what `source` lacks is that of `base`. Returns the folder."""
    home = home_of(source, base)
    return write_whole(
        format_name,
        model,
        read_companions(source, home),
        out,
        schedule=folders.settings(home)["schedule"],
        tokenizers_from=home,
    )


def read_companions(source: Path, home: Path) -> Parts:
    """Text encoders and autoencoder, as stored: the source's own, else those of `home`."""
    own: Parts = {}
    if kind_of(source) == "single":
        known = folders.read_configs(home)
        own = read_parts(source, known=known, place=lambda _: AS_STORED, names=COMPANIONS)
    missing = [name for name in COMPANIONS if name not in own]
    return folders.read_parts(home, place=lambda _: AS_STORED, names=missing) | own
