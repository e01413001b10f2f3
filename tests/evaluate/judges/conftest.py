"""Folders of judges' networks with random weights, as transformers writes them, and pictures."""

import shutil

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, Dinov2Config, Dinov2Model

from flashjax.data.tokenizers import build_tokenizers

WORDS = "a red seven blue three left of green one".split()
LENGTH = 9


def lively(model):
    """Weights large enough that pictures and prompts differ."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """Gives the folder of a tiny CLIPModel with its tokenizer, by its activation."""
    root = tmp_path_factory.mktemp("clip")
    build_tokenizers(root / "tokenizers", WORDS, clip_length=LENGTH)
    vocabulary = len(CLIPTokenizer.from_pretrained(root / "tokenizers" / "tokenizer"))

    def make(activation):
        folder = root / activation
        if folder.exists():
            return folder
        tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
        tower |= {"num_attention_heads": 2, "hidden_act": activation}
        text = {"vocab_size": vocabulary, "max_position_embeddings": LENGTH, "bos_token_id": 0}
        config = CLIPConfig(
            text_config=tower | text | {"eos_token_id": vocabulary - 1},
            vision_config=tower | {"image_size": 28, "patch_size": 14},
            projection_dim=12,
        )
        torch.manual_seed(0)
        lively(CLIPModel(config)).save_pretrained(folder)
        shutil.copytree(root / "tokenizers" / "tokenizer", folder, dirs_exist_ok=True)
        return folder

    return make


@pytest.fixture(scope="session")
def dinov2_folder(tmp_path_factory):
    """The folder of a tiny Dinov2Model."""
    folder = tmp_path_factory.mktemp("dinov2")
    config = Dinov2Config(
        hidden_size=12, num_attention_heads=2, num_hidden_layers=1, image_size=70, patch_size=14
    )
    torch.manual_seed(0)
    lively(Dinov2Model(config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pictures():
    """Gives pictures uint8 "n 40 56 3" of a seed: blobs of different colours."""

    def make(count, *, seed=0):
        random = np.random.default_rng(seed)
        blocks = random.integers(0, 256, (count, 5, 7, 3), np.uint8)
        return blocks.repeat(8, axis=1).repeat(8, axis=2)

    return make
