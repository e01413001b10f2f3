"""`bench quantize`: the block weights of a model of true size through the encoders, timed.

Weights are random and made tensor by tensor; ggml's C (a shared library that `--ggml` names) and
gguf-py encode some of the same weights in the same run. CPU seconds are those of all cores: on a
machine that others use, they are what can be compared.
"""

import ctypes
import importlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from flashjax.convert.transformer import transformer_rows
from flashjax.models.variants import MMDIT
from flashjax.quantize.codecs.codec import Q6_K, Q8_0, Codec
from flashjax.quantize.codecs.tensors import CHUNK_COLUMNS, encode_tensor
from flashjax.quantize.policy import BLOCKS
from flashjax.tools.bench.measuring import counted
from flashjax.types import InputError

POOL = 2**24  # random numbers that all tensors are cut from
PEER_WEIGHTS = 2**24  # what the peers encode
STD = 0.02
CODECS = (Q6_K, Q8_0)
MOST_SECONDS = {"cpu": 90, "gpu": 5}  # for SD3.5-Medium in Q6_K: two cores, one GPU
MOST_TENSORS = 4  # that memory may grow by meanwhile


def run(model: str, *, ggml: str | None = None) -> dict[str, Any]:
    """Prints and returns seconds, weights a second, peak memory, and the ratio to the peers."""
    if model not in MMDIT:
        raise InputError(f"--model {model} is unknown: choose of {', '.join(MMDIT)}")
    pool = np.random.default_rng(0).normal(scale=STD, size=POOL).astype(np.float32)
    sample = pool[:PEER_WEIGHTS].reshape(-1, CHUNK_COLUMNS)
    largest = max(array.nbytes for _, array in tensors_of(model, pool))
    rows = []
    for codec in CODECS:
        encode_tensor(sample[:1], codec, name="warm")  # compiled before the clock runs
        before = counted("/proc/self/status", "VmHWM")
        weights, wall, cpu = 0, 0.0, 0.0
        for name, array in tensors_of(model, pool):
            started, used = time.perf_counter(), time.process_time()
            encode_tensor(array, codec, name=name)
            wall, cpu = wall + time.perf_counter() - started, cpu + time.process_time() - used
            weights += array.size
        grown = 1024 * (counted("/proc/self/status", "VmHWM") - before)
        print(
            f"{codec.name}: {weights / 1e9:.2f} G weights in {wall:.1f} s, {cpu:.1f} CPU seconds: "
            f"{weights / cpu / 1e6:.1f} M weights a CPU second; memory grew by "
            f"{grown / largest:.1f} of the largest tensor ({largest / 1e6:.0f} MB)"
            + device_memory(largest),
            flush=True,
        )
        most = MOST_SECONDS.get(jax.default_backend())
        if codec is Q6_K and model == "sd35_medium" and most:
            met = wall <= most and grown <= MOST_TENSORS * largest
            print(
                f"  bars {most} s and {MOST_TENSORS} of the largest tensor: "
                f"{'met' if met else 'NOT MET'}",
                flush=True,
            )
        rows.append(
            {
                "codec": codec.name,
                "weights": weights,
                "seconds": wall,
                "cpu_seconds": cpu,
                "memory_grew_bytes": grown,
                "largest_tensor_bytes": largest,
                "peers": [
                    compare(peer, codec, encode, sample, weights / cpu)
                    for peer, encode in peers(codec, ggml).items()
                ],
            }
        )
    return {"model": model, "rows": rows}


def device_memory(largest: int) -> str:
    """The accelerator's peak so far in tensors of `largest` bytes; a CPU keeps no account."""
    stats = jax.local_devices()[0].memory_stats()
    return f", the device's peak is {stats['peak_bytes_in_use'] / largest:.1f}" if stats else ""


def tensors_of(model: str, pool: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The weights of the model's blocks that K types fit, cut from `pool` at random places."""
    random = np.random.default_rng(1)
    for row in transformer_rows(MMDIT[model], "sai"):
        fits = len(row.shape) == 2 and row.shape[1] % Q6_K.block == 0
        if not (fits and row.keys[0].startswith(BLOCKS)):
            continue
        size = row.shape[0] * row.shape[1]
        start = random.integers(0, max(1, pool.size - size))
        for key in row.keys:
            yield key, np.resize(pool[start : start + size], row.shape)


Encode = Callable[[np.ndarray], np.ndarray]


def peers(codec: Codec, ggml: str | None) -> dict[str, Encode]:
    """Those who encode the same on this machine: rows of float32 -> rows of uint8."""
    found: dict[str, Encode] = {}
    if ggml:
        found["ggml"] = ggml_encode(codec, ggml)
    if codec is Q8_0:
        try:
            quants = importlib.import_module("gguf").quants
        except ImportError:
            print("gguf-py is not installed: not compared")
        else:
            kind = importlib.import_module("gguf").GGMLQuantizationType
            found["gguf-py"] = lambda x: quants.quantize(x, kind[codec.name])
    return found


def ggml_encode(codec: Codec, library: str) -> Encode:
    """ggml's reference quantiser of a type, out of libggml-base.so."""
    symbol = f"quantize_row_{codec.name.replace('Q', 'q')}_ref"
    try:
        function = getattr(ctypes.CDLL(library, mode=1), symbol)  # 1: bind symbols when called
    except (OSError, AttributeError) as error:
        raise InputError(f"--ggml {library}: no ggml library with {symbol} ({error})") from error

    def encode(x: np.ndarray) -> np.ndarray:
        codes = np.empty((len(x), codec.encoded_bytes(x.shape[1])), np.uint8)
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in (x, codes))
        function(*pointers, ctypes.c_int64(x.size))
        return codes

    return encode


def compare(
    peer: str, codec: Codec, encode: Encode, sample: np.ndarray, ours: float
) -> dict[str, Any]:
    """One line: the peer's speed as a ratio to ours, and how many bytes are the same."""
    used = time.process_time()
    theirs = encode(sample)
    rate = sample.size / (time.process_time() - used)
    same = float((theirs == np.asarray(codec.encode(sample))).all(axis=1).mean())
    print(
        f"  {peer}: {rate / 1e6:.1f} M weights a CPU second, ours {ours / rate:.2f} times as many; "
        f"{100 * same:.2f} % of rows of {sample.shape[1]} equal",
        flush=True,
    )
    speed = {"weights_per_cpu_second": rate, "ours_times_as_many": ours / rate}
    return {"peer": peer, **speed, "equal_rows": same}
