"""Eight simulated CPU devices for every test, and a tiny teacher for the tests of whole stages."""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# XLA aborts the process where a device is 40 s late at a collective: a busy machine's may be.
# Compilation is nearly all of the time: with the last four it takes a sixth of what it took.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8"
    " --xla_cpu_collective_call_terminate_timeout_seconds=600"
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)

# Compilation is most of the suite's time, and many tests, workers and stages compile the same
# programs: they share what they compile, and it goes with the session that made it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="flashjax-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import gc
import shutil
import signal
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashjax import trees
from flashjax.convert.folder import write_pipeline
from flashjax.convert.pipeline import Pipeline
from flashjax.data.tokenizers import build_tokenizers, load_tokenizers
from flashjax.models.clip import CLIPConfig, CLIPText
from flashjax.models.mmdit import MMDiT, MMDiTConfig
from flashjax.models.t5 import T5Config, T5Encoder
from flashjax.models.text import TextConfig
from flashjax.models.vae import VAE, VAEConfig
from flashjax.parallel import compiling
from flashjax.tasks.digit_scenes.captions import vocabulary
from flashjax.types import Cond, Params

_LONGEST = (
    "stages/test_road.py",
    "stages/test_recipes_road.py",
    "tools/ablate/test_command.py",
    "stages/test_processes.py",
    "parallel/test_layout.py",
    "tools/test_sample.py",
    "tools/quantize/test_command.py",
    "parallel/test_branched_steps.py",
    "docs/test_public.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes are begun first: then all workers end together."""
    place = {Path(__file__).parent / name: n for n, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collection_finish() -> None:
    """A million objects of what is imported stay: looking through them takes half a second."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def forget_programs() -> Iterator[None]:
    """What a file has compiled goes with it: thousands of live programs make a process slow."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def undivided() -> dict[str, str]:
    """The environment of a command that says itself how many devices it simulates."""
    flags = (flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)
    return os.environ | {"XLA_FLAGS": " ".join(flags)}


@pytest.fixture
def tell_myself() -> Callable[[signal.Signals], None]:
    """Sends a signal to the test's own process, once somebody there is seen to catch it."""

    def tell(number: signal.Signals) -> None:
        heard = signal.getsignal(number)
        assert callable(heard) and heard is not signal.default_int_handler, "nobody would catch it"
        os.kill(os.getpid(), number)

    return tell


@pytest.fixture
def key() -> jax.Array:
    """A typed random key; the same one in every test."""
    return jax.random.key(0)


@pytest.fixture
def compiled():
    """The names of what is compiled from now on, by any thread."""
    names = []

    def heard(event, duration, **said):
        if event == compiling.COMPILE:
            names.append(said["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(heard)
    yield names
    jax.monitoring.unregister_event_duration_listener(heard)


@pytest.fixture(scope="session")
def random_params():
    """A random parameter tree with the shapes of an abstract one."""

    def fill(abstract, *, std=0.1):
        random = np.random.default_rng(0)
        return trees.unflatten(
            {
                path: (std * random.normal(size=leaf.shape)).astype(np.float32)
                for path, leaf in trees.flatten(abstract).items()
            }
        )

    return fill


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with random weights, laid out like the packaged teacher."""
    return _write_tiny(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="session")
def shallow_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a single block, without dual attention: what compiles fastest."""
    return _write_tiny(tmp_path_factory.mktemp("shallow"), depth=1, dual=0)


def _write_tiny(root: Path, **sizes: int) -> Path:
    build_tokenizers(root / "tokenizers", vocabulary())
    tokenizer = load_tokenizers(root / "tokenizers")
    write_pipeline(
        root / "tiny",
        tiny_pipeline(len(tokenizer.clip_l), len(tokenizer.t5), **sizes),
        tokenizers_from=root / "tokenizers",
    )
    shutil.copytree(
        Path(str(files("flashjax"))) / "assets" / "nano" / "reader", root / "tiny" / "reader"
    )
    return root / "tiny"


def tiny_pipeline(
    clip_vocabulary: int, t5_vocabulary: int, *, depth: int = 2, dual: int = 1
) -> Pipeline:
    """All networks of a miniature with random weights; no layer is left at zero."""
    text = TextConfig(
        CLIPConfig(clip_vocabulary, 12, 32, 2, 1, 64, "quick_gelu"),
        CLIPConfig(clip_vocabulary, 12, 32, 2, 1, 64, "gelu", 32),
        T5Config(t5_vocabulary, 64, 1, 1, 64, 64),
    )
    sizes = MMDiTConfig(
        depth=depth,
        heads=4,
        dual=dual,
        position_size=8,
        text_width=64,
        pooled_width=64,
        head_width=64,
    )
    vae = VAEConfig(channels=(8, 8, 8, 8), layers=1, groups=2)

    def init(key: jax.Array) -> Params:
        ids = jnp.zeros((1, 12), jnp.int32)
        cond = Cond(jnp.zeros((1, 2, 64)), jnp.zeros((1, 64)))
        latents = jnp.zeros((1, 8, 8, 16))
        return {
            "transformer": MMDiT(sizes).init(key, latents, jnp.ones((1,)), cond)["params"],
            "vae": VAE(vae).init(key, jnp.zeros((1, 64, 64, 3)))["params"],
            "clip_l": CLIPText(text.clip_l).init(key, ids)["params"],
            "clip_g": CLIPText(text.clip_g).init(key, ids)["params"],
            "t5": T5Encoder(text.t5).init(key, ids)["params"],
        }

    params = _filled(jax.eval_shape(init, jax.random.key(0)))
    transformer, autoencoder = params.pop("transformer"), params.pop("vae")
    return Pipeline(transformer, sizes, autoencoder, vae, params, text, sample_size=8)


def _filled(abstract: Params) -> Params:
    """Random weights of an initialiser's sizes, without the half minute of compiling one."""
    random = np.random.default_rng(0)

    def fill(path: str, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        inputs = max(1, leaf.size // leaf.shape[-1])
        mean, std = (1.0, 0.02) if path.endswith("scale") else (0.0, inputs**-0.5)
        return (mean + std * random.normal(size=leaf.shape)).astype(np.float32)

    return trees.unflatten(
        {path: fill(path, leaf) for path, leaf in trees.flatten(abstract).items()}
    )


@pytest.fixture(scope="session")
def large_weights():
    """Gives a torch model weights so large that pictures and prompts differ."""
    import torch

    def fill(model):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3, generator=generator)
        return model.eval()

    return fill


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory, large_weights):
    """Gives the folder of a tiny CLIPModel with its tokenizer, by its activation."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    words, length = "a red seven blue three left of green one".split(), 9
    root = tmp_path_factory.mktemp("clip")
    build_tokenizers(root / "tokenizers", words, clip_length=length)
    vocabulary = len(CLIPTokenizer.from_pretrained(root / "tokenizers" / "tokenizer"))

    def make(activation):
        folder = root / activation
        if folder.exists():
            return folder
        tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
        tower |= {"num_attention_heads": 2, "hidden_act": activation}
        text = {"vocab_size": vocabulary, "max_position_embeddings": length, "bos_token_id": 0}
        config = CLIPConfig(
            text_config=tower | text | {"eos_token_id": vocabulary - 1},
            vision_config=tower | {"image_size": 28, "patch_size": 14},
            projection_dim=12,
        )
        torch.manual_seed(0)
        large_weights(CLIPModel(config)).save_pretrained(folder)
        shutil.copytree(root / "tokenizers" / "tokenizer", folder, dirs_exist_ok=True)
        return folder

    return make
