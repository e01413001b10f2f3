"""FID's InceptionV3: its oracle is torch-fidelity 0.4.0, whose values lie in golden/inception.json.

They are computed anew, and compared with the file, where torch-fidelity is installed.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from flashjax.convert.inception import inception_from, inception_rows, read_inception
from flashjax.convert.tensors import in_memory
from flashjax.evaluate.judges.pixels import tensorflow_pixels
from flashjax.models.inception import POOLS, SIDE, Inception
from flashjax.types import InputError

GOLDEN = Path(__file__).parents[1] / "golden" / "inception.json"
FEATURES, LOGITS = slice(None, None, 128), slice(None, None, 126)  # those that are kept


def weights():
    """Random weights under the names of a file, of sizes that keep signals alive."""
    random = np.random.default_rng(0)

    def value(key, shape):
        if key.endswith("conv.weight") or key == "fc.weight":
            return random.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        if key.endswith(("running_var", "bn.weight")):
            return random.uniform(0.5, 1.5, shape)
        return 0.1 * random.normal(size=shape)

    places = sorted((row.keys[0], row.shape) for row in inception_rows())
    return {key: value(key, shape).astype(np.float32) for key, shape in places}


def pictures():
    return np.random.default_rng(1).integers(0, 256, (2, 64, 80, 3), np.uint8)


def test_features_and_logits_are_torch_fidelitys():
    golden = json.loads(GOLDEN.read_text())
    params = inception_from(in_memory(weights()))
    pixels = np.stack([tensorflow_pixels(picture, SIDE) for picture in pictures()])
    features, logits = jax.jit(Inception().apply)({"params": params}, pixels)
    np.testing.assert_allclose(features[:, FEATURES], golden["features"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(logits[:, LOGITS], golden["logits"], atol=1e-4, rtol=0)
    assert np.std(golden["features"]) > 1 and features.shape == (2, 2048)


def test_the_golden_values_are_torch_fidelitys(tmp_path):
    oracle = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="torch-fidelity is not installed"
    )
    torch.save({key: torch.from_numpy(value) for key, value in weights().items()}, tmp_path / "w")
    network = oracle.FeatureExtractorInceptionV3(
        "fid", ["2048", "logits"], feature_extractor_weights_path=str(tmp_path / "w")
    )
    features, logits = network(torch.from_numpy(pictures()).permute(0, 3, 1, 2))
    found = {"features": features[:, FEATURES].tolist(), "logits": logits[:, LOGITS].tolist()}
    if os.environ.get("REFRESH_GOLDEN"):
        GOLDEN.write_text(json.dumps(found) + "\n")
    golden = json.loads(GOLDEN.read_text())
    for name, values in found.items():
        np.testing.assert_allclose(values, golden[name], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("mean", torch.nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)),
        ("max", torch.nn.MaxPool2d(3, stride=1, padding=1)),
        ("halve", torch.nn.MaxPool2d(3, stride=2)),
    ],
)
def test_pools_are_torchs(name, theirs):
    x = np.random.default_rng(0).normal(size=(2, 9, 7, 3)).astype(np.float32) - 2
    expected = theirs(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(POOLS[name](x), expected, atol=1e-6)


def test_the_network_has_the_published_number_of_parameters():
    learned = [row for row in inception_rows() if "running" not in row.keys[0]]
    torchvisions = 27_161_264 - 3_326_696  # without its auxiliary head
    assert sum(np.prod(row.shape) for row in learned) == torchvisions + 8 * (2048 + 1)


def test_torchvisions_network_is_refused_by_its_classes():
    with pytest.raises(InputError, match=r"has 1000 classes and is not the InceptionV3 of FID"):
        inception_from(in_memory({"fc.weight": np.zeros((1000, 2048), np.float32)}))
    with pytest.raises(InputError, match=r"has no classes and is not the InceptionV3 of FID"):
        inception_from(in_memory({"visual_projection.weight": np.zeros((2, 2), np.float32)}))


def test_a_pickle_is_refused_with_a_command_that_converts_it(tmp_path):
    folder = tmp_path / "my weights"
    folder.mkdir()
    pickle = folder / "inception.pth"
    stored = {"fc.weight": torch.zeros(3, 2).T, "bn.num_batches_tracked": torch.tensor(7)}
    torch.save(stored, pickle)
    for path in (folder, pickle):
        with pytest.raises(InputError, match="is a pickle, which flashjax never reads") as refused:
            read_inception(path)
    command = str(refused.value).split("convert it first, ")[1]
    _, *words = shlex.split(command)
    subprocess.run([sys.executable, *words], check=True)
    with pytest.raises(InputError, match=r"inception.safetensors has 2 classes"):
        read_inception(folder)


def test_files_count_batches_of_a_training_that_nobody_needs(tmp_path):
    stored = weights() | {"Mixed_5b.branch1x1.bn.num_batches_tracked": np.array(5)}
    save_file(stored, tmp_path / "inception.safetensors")
    params = read_inception(tmp_path)
    mean = params["Mixed_5b"]["branch1x1"]["bn"]["mean"]
    np.testing.assert_array_equal(mean, stored["Mixed_5b.branch1x1.bn.running_mean"])
