"""The model as every stage after `import` opens it, and what `import` leaves for them."""

import dataclasses
import functools
import hashlib
import shutil
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax import trees
from flashjax.checkpoint import load_params, save_params
from flashjax.convert.folder import INDEX
from flashjax.convert.pipeline import Pipeline
from flashjax.convert.text import abstract_text
from flashjax.convert.transformer import abstract_transformer
from flashjax.convert.vae import abstract_vae
from flashjax.convert.writing import write_json
from flashjax.data.cache import MANIFEST, read_cache
from flashjax.data.config import DataConfig
from flashjax.data.jsons import read_json
from flashjax.data.remote.fetch import fetched
from flashjax.data.tokenizers import Tokenizer, check_fits, clip_length, load_tokenizers
from flashjax.flow.schedule import Schedule
from flashjax.models.clip import CLIPConfig
from flashjax.models.halved import told
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.t5 import T5Config
from flashjax.models.text import AbsentT5, TextConfig
from flashjax.models.vae import VAEConfig
from flashjax.parallel.hosts import is_first
from flashjax.parallel.layout import REPLICATED, ROLES
from flashjax.parallel.sharding import abstract_on, param_shardings
from flashjax.sources import kind_of
from flashjax.types import Count, InputError, Params

PACKAGED = {"nano": "assets/nano"}
PARAMS, TOKENIZERS, MODEL = "params", "tokenizers", "model.json"
PARTS = ("transformer", "vae", "text")
ABSTRACT: dict[str, Callable[[Any], Params]] = {
    "transformer": abstract_transformer,
    "vae": abstract_vae,
    "text": abstract_text,
}
# How it is computed is not what a network is.
_HOW = ("dtype", "residual", "gradients", "remat", "unroll")


@dataclasses.dataclass(frozen=True)
class Digests:
    """What tells encoders from others."""

    vae: str
    text: str
    tokenizers: str


@dataclasses.dataclass(frozen=True)
class _Rest(Schedule):
    """What model.json has beside the sizes."""

    sample_size: Count = 1
    digests: Digests = Digests("", "", "")


def packaged(name: str) -> Path:
    """The folder of a teacher that comes with the package. InputError if it is not there."""
    folder = Path(str(files("flashjax"))) / PACKAGED[name]
    if not (folder / "model_index.json").is_file():
        raise InputError(f"{name}: {folder} holds no pipeline; train one with `flashjax teach`")
    return folder


def source_of(config: ConfigDict) -> Path:
    """The teacher: a path, or the name of one that comes with the package."""
    source = config.teacher.source
    path = packaged(source) if source in PACKAGED else fetched(source)
    if not path.exists():
        raise InputError(
            f"teacher.source={source} does not exist: train one with `flashjax teach`, or give a "
            f"diffusers folder, a single file or a GGUF"
        )
    return path


def home_of(config: ConfigDict) -> Path:
    """The pipeline's folder that has what the teacher's own file lacks. InputError for none."""
    base = config.teacher.get("base")
    home = fetched(base) if base else source_of(config)
    if not (home / INDEX).is_file():
        key = "teacher.base" if base else "teacher.source"
        raise InputError(
            f"{key}={home} has no {INDEX}: give teacher.base a pipeline's folder, which has the "
            f"tokenizers and settings that a file lacks"
        )
    return home


def keep_model(folder: Path, pipeline: Pipeline, *, tokenizers: Path) -> None:
    """Writes the weights, the sizes and the tokenizers of a model into a stage's folder."""
    networks = {name: getattr(pipeline, name) for name in PARTS}
    for name, params in networks.items():
        save_params(folder / PARAMS / name, params)
    if not is_first():
        return
    (folder / TOKENIZERS).mkdir(exist_ok=True)
    for source in sorted(tokenizers.glob("tokenizer*")):
        shutil.copytree(source, folder / TOKENIZERS / source.name, dirs_exist_ok=True)
    sizes = {name: _sizes(config) for name, (_, config) in pipeline.parts.items()}
    absent = {"t5": _sizes(pipeline.text_config.t5)}
    settings = {"sample_size": pipeline.sample_size} | dataclasses.asdict(pipeline.schedule)
    digests = digests_of(pipeline, folder / TOKENIZERS)
    write_json(folder / MODEL, {"sizes": absent | sizes, "digests": digests, **settings})


def digests_of(pipeline: Pipeline, tokenizers: Path) -> dict[str, str]:
    """What tells encoders from others: of what every process has whole, the first 12 characters.

    Text encoders lie on many devices; theirs is of the vectors that every device has. The folder
    `tokenizers` may hold more than theirs.
    """

    def whole(tree: Params) -> Params:
        leaves = trees.flatten(tree)
        return {p: x for p, x in leaves.items() if getattr(x, "is_fully_replicated", True)}

    files = sorted(path for path in tokenizers.glob("tokenizer*/**/*") if path.is_file())
    told = [
        f"{path.relative_to(tokenizers)} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in files
    ]
    return {
        "vae": trees.digest(whole(pipeline.vae))[:12],
        "text": trees.digest(whole(pipeline.text))[:12],
        "tokenizers": hashlib.sha256("\n".join(told).encode()).hexdigest()[:12],
    }


@dataclasses.dataclass(frozen=True)
class Described:
    """What `import` says of the model: sizes of its networks, settings, digests of its encoders."""

    transformer: MMDiTConfig
    vae: VAEConfig
    text: TextConfig
    digests: Digests
    sample_size: int
    schedule: Schedule


def read_model(workdir: Path) -> Described:
    """What `import` says of the model. InputError for what is not exactly what it wrote."""
    path = workdir / "import" / MODEL
    model = read_json(path)
    if "digests" not in model:
        raise InputError(f"{path} is of an older flashjax: run `import` in another workdir")
    sizes = model.pop("sizes", None)
    t5: type[AbsentT5] | type[T5Config] = AbsentT5
    if not isinstance(sizes, dict):
        raise InputError(f"{path} has no sizes: run `import` in another workdir")
    if isinstance(sizes.get("t5"), dict) and "length" not in sizes["t5"]:
        t5 = T5Config
    kinds: dict[str, Any] = dict(transformer=MMDiTConfig, vae=VAEConfig, t5=t5)
    kinds |= dict.fromkeys(("clip_l", "clip_g"), CLIPConfig)
    found = {name: _recorded(sizes.get(name), f"{path}, {name}", kinds[name]) for name in kinds}
    texts = TextConfig(found["clip_l"], found["clip_g"], found["t5"])
    rest = _recorded(model, str(path), _Rest)
    schedule = Schedule(**{f.name: getattr(rest, f.name) for f in dataclasses.fields(Schedule)})
    networks = found["transformer"], found["vae"], texts
    return Described(*networks, rest.digests, rest.sample_size, schedule)


def made_with(workdir: Path, data: DataConfig, side: int) -> dict[str, Any]:
    """What a cache and the model that is trained on it must have in common."""
    model = read_model(workdir)
    text = {"text": model.digests.text} if data.text == "embeddings" else {}
    return {
        "vae": model.digests.vae,
        "tokenizers": model.digests.tokenizers,
        "scaling_factor": model.vae.scaling_factor,
        "shift_factor": model.vae.shift_factor,
        "latent_channels": model.vae.latent_channels,
        "side": side,
        "kept": data.text,
    } | text


def open_model(
    workdir: Path, mesh: Mesh | None = None, *, names: Sequence[str] = PARTS
) -> tuple[Pipeline, Tokenizer]:
    """The imported teacher and its tokenizer; see `open_networks`."""
    pipeline = open_networks(workdir, mesh, names=names)
    return pipeline, open_tokenizer(workdir, pipeline)


def open_tokenizer(workdir: Path, pipeline: Pipeline) -> Tokenizer:
    """The imported teacher's tokenizer. InputError if it has words that its encoders have not."""
    folder = workdir / "import" / TOKENIZERS
    tokenizer = _tokenizer(folder)
    text = pipeline.text_config
    check_fits(tokenizer, text.vocabularies, str(folder), places=text.places)
    return tokenizer


def open_networks(
    workdir: Path, mesh: Mesh | None = None, *, names: Sequence[str] = PARTS
) -> Pipeline:
    """The imported teacher, from the workdir alone; of its networks only `names` are read.

    Its weights are read straight to where they are stored on `mesh`: a pod's networks do not fit
    one of its chips. Without a mesh this process has them whole, in its host's memory.
    """
    shapes = abstract_networks(workdir, names=names)
    folder = workdir / "import" / PARAMS
    networks = {
        name: _load(folder / name, mesh, functools.partial(network_shardings, name))
        for name in names
    }
    for name, network in networks.items():
        trees.check_same(getattr(shapes, name), network, where=str(folder / name))
    return dataclasses.replace(shapes, **networks)


def abstract_networks(workdir: Path, *, names: Sequence[str] = PARTS) -> Pipeline:
    """The same, of its networks the shapes: no weight is read."""
    model, cut = read_model(workdir), clip_length(workdir / "import" / TOKENIZERS)
    networks = {name: ABSTRACT[name](getattr(model, name)) for name in names}
    return Pipeline(
        **{name: {} for name in PARTS} | networks,
        sample_size=model.sample_size,
        schedule=model.schedule,
        transformer_config=model.transformer,
        vae_config=model.vae,
        text_config=dataclasses.replace(model.text, cut=cut),
    )


def student_of(
    workdir: Path, stage: str, mesh: Mesh | None = None, *, halved: bool = False
) -> Params:
    """The network of the student that a stage made, for its grid, or for half as many steps.

    They are one but for a student that is told of them (`match.match.told`).
    """
    return told(trained_student(workdir, stage, mesh), halved)


def trained_student(workdir: Path, stage: str, mesh: Mesh | None = None) -> Params:
    """All that a stage trained of its student, stored on `mesh`, or in this host's memory."""

    def shardings(tree: Params, mesh: Mesh) -> Params:
        return param_shardings(tree, ROLES["student"], mesh)

    return _load(workdir / stage / PARAMS, mesh, shardings)


def in_run(source: Path) -> bool:
    """Whether a source is the folder of a stage whose run has the rest of the model."""
    return kind_of(source) == "orbax" and (source.parent / "import").is_dir()


def open_stage(source: Path) -> tuple[Pipeline, Tokenizer] | None:
    """The model whose transformer a stage left in the folder `source`, in this host's memory.

    It draws what `drawn_size` says. None for what is no stage's folder in a run.
    """
    if not in_run(source):
        return None
    pipeline, tokenizer = open_model(source.parent)
    if is_teacher(source):
        return pipeline, tokenizer
    params = student_of(source.parent, source.name)
    student = params.get("transformer", params)
    size = drawn_size(source, read_model(source.parent))
    return dataclasses.replace(pipeline, transformer=student, sample_size=size), tokenizer


def is_teacher(source: Path) -> bool:
    """Whether a stage's folder is that of `import`, which keeps each network apart."""
    return (source / PARAMS / "transformer").is_dir()


def drawn_size(source: Path, model: Described) -> int:
    """The side of the latents that a stage's model draws: the teacher its own, a student the one
    that its run has learnt."""
    learnt = 0 if is_teacher(source) else learnt_size(source.parent)
    return learnt // model.vae.factor or model.sample_size


def learnt_size(workdir: Path) -> int:
    """The side in pixels of the squares that a run has prepared; 0 where it has not."""
    cache = workdir / "prepare"
    return read_cache(cache).made.get("side", 0) if (cache / MANIFEST).is_file() else 0


def teacher_of(workdir: Path, mesh: Mesh) -> Params:
    """The teacher's transformer as it was imported, in fp32: what others begin as."""
    place = functools.partial(network_shardings, "transformer")
    return _load(workdir / "import" / PARAMS / "transformer", mesh, place)


def network_shardings(name: str, tree: Params, mesh: Mesh) -> Params:
    """Where a network of a pipeline is stored; `name` is one of its parts, or "text" for three."""
    if name in ("clip_l", "clip_g", "t5"):
        return network_shardings("text", {name: tree}, mesh)[name]
    rules = {"transformer": ROLES["teacher"], "text": ROLES["text"], "vae": REPLICATED}
    return param_shardings(tree, rules[name], mesh)


def _load(folder: Path, mesh: Mesh | None, shardings: Callable[[Params, Mesh], Params]) -> Params:
    if mesh is None:
        return load_params(folder)
    there = mesh
    return load_params(folder, place=lambda tree: abstract_on(tree, shardings(tree, there)))


@functools.cache
def _tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizers(folder)


def _sizes(config: Any) -> dict[str, Any]:
    """A network's config as JSON."""
    fields = [field.name for field in dataclasses.fields(config) if field.name not in _HOW]
    return {name: getattr(config, name) for name in fields}


def _recorded(sizes: Any, where: str, kind: Any) -> Any:
    """A network's config from JSON that has all of it: no size may be taken for the usual one."""
    names = {field.name for field in dataclasses.fields(kind)}.difference(_HOW)
    lost = sorted(names.difference(sizes if isinstance(sizes, dict) else ()))
    if lost:
        raise InputError(f"{where} lacks {', '.join(lost)}: run `import` in another workdir")
    return configs.record(sizes, where, kind)
