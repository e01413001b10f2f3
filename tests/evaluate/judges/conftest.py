"""The folder of a judge's network with random weights, as transformers writes it, and pictures."""

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model


@pytest.fixture(scope="session")
def dinov2_folder(tmp_path_factory, large_weights):
    """The folder of a tiny Dinov2Model."""
    folder = tmp_path_factory.mktemp("dinov2")
    config = Dinov2Config(
        hidden_size=12, num_attention_heads=2, num_hidden_layers=1, image_size=70, patch_size=14
    )
    torch.manual_seed(0)
    large_weights(Dinov2Model(config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pictures():
    """Gives pictures uint8 "n 40 56 3" of a seed: blobs of different colours."""

    def make(count, *, seed=0):
        random = np.random.default_rng(seed)
        blocks = random.integers(0, 256, (count, 5, 7, 3), np.uint8)
        return blocks.repeat(8, axis=1).repeat(8, axis=2)

    return make
