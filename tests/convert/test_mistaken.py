"""What people give instead of a model is called what it is, with the command that mends it."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from flashjax.convert.mistaken import other_folder, other_place, workdir
from flashjax.convert.reading import open_safetensors
from flashjax.sources import kind_of
from flashjax.types import InputError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:11fe06e2\nsize 5107104310\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>stabilityai at main</title></head></html>"


def zipped(path: Path) -> None:
    folder = path.with_suffix(".d")
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    shutil.make_archive(str(path), "zip", folder)
    Path(f"{path}.zip").rename(path)


MAKERS = {
    "model.ckpt": (lambda path: torch.save({"a": torch.ones(2)}, path), "is a pickle"),
    "model.pt": (
        lambda path: torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False),
        "is a pickle, which flashjax never reads: convert it first, python -c ",
    ),
    "lfs.safetensors": (lambda path: path.write_bytes(POINTER), "is a pointer of git-lfs, not the"),
    "page.safetensors": (lambda path: path.write_bytes(PAGE), "is a web page, not the file: fetch"),
    "error.safetensors": (lambda path: path.write_text("Entry not found"), "begins 'Entry not fou"),
    "umlaut.safetensors": (lambda path: path.write_text("Zugriff ungültig"), "begins 'Zugriff ung"),
    "index.json": (
        lambda path: path.write_text('{"weight_map": {}}'),
        "is a JSON file: give the",
    ),
    "model.gguf": (
        lambda path: path.write_bytes(b"GGUF\3\0\0\0"),
        "is a GGUF file: it cannot st",
    ),
    "model.zip": (zipped, "is a zip file: unpack it"),
    "half.zip": (lambda path: path.write_bytes(b"PK\3\4" + bytes(99)), "is a zip file that is cut"),
    "model.tar.gz": (
        lambda path: path.write_bytes(b"\x1f\x8b" + bytes(99)),
        "is a compressed ar",
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_file_of_another_kind_is_called_what_it_is(name, tmp_path):
    make, message = MAKERS[name]
    make(tmp_path / name)
    with pytest.raises(InputError, match=message) as caught:
        open_safetensors(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.ckpt", 'someone\'s $HOME `a` "b".ckpt'])
def test_the_command_for_a_pickle_converts_it_whatever_its_path(name, tmp_path):
    path = tmp_path / name
    torch.save({"state_dict": {"a": torch.arange(3.0), "b": torch.ones(2, 2)}, "epoch": 3}, path)
    with pytest.raises(InputError) as caught:
        open_safetensors(path)
    command = str(caught.value).partition("convert it first, python ")[2]
    subprocess.run(f"{sys.executable} {command}", shell=True, check=True)
    found = load_file(path.with_suffix(".safetensors"))
    assert set(found) == {"a", "b"}
    np.testing.assert_array_equal(found["a"], [0, 1, 2])


def test_names_of_the_hub_and_addresses_are_told_from_paths(tmp_path):
    told = other_place(Path("stabilityai/stable-diffusion-3.5-medium"))
    assert "`hf download stabilityai/stable-diffusion-3.5-medium --local-dir stable-diff" in told
    told = other_place(Path("https://hf.co/a/b.safetensors"))
    assert told.endswith("fetch the file with `curl -L -O https://hf.co/a/b.safetensors`")
    told = other_place(Path("https://hf.co/a/b's.safetensors?download=true"))
    assert """curl -L -O 'https://hf.co/a/b'"'"'s.safetensors?download=true'`""" in told
    assert "`hf download a/b --local-dir b`" in other_place(Path("hf://a/b"))
    assert "s3://bucket/x is an address, no path" in other_place(Path("s3://bucket/x"))
    assert other_place(tmp_path / "absent") is None
    assert other_place(Path("/nowhere")) is None


def test_a_folder_that_is_no_model_says_what_to_give(tmp_path):
    assert other_folder(tmp_path) is None
    torch.save({}, tmp_path / "unet.ckpt")
    assert "unet.ckpt is a pickle" in other_folder(tmp_path)
    save_file({"a": np.ones(2)}, tmp_path / "a.safetensors")
    assert other_folder(tmp_path).endswith("a.safetensors itself")
    (tmp_path / "out" / "transformer").mkdir(parents=True)
    (tmp_path / "out" / "transformer" / "config.json").touch()
    assert other_folder(tmp_path / "out").endswith("transformer, which is in it")
    (tmp_path / "all" / "diffusers").mkdir(parents=True)
    (tmp_path / "all" / "diffusers" / "model_index.json").touch()
    assert other_folder(tmp_path / "all").endswith("diffusers, which is in it")
    cache = tmp_path / "models--stabilityai--x"
    (cache / "snapshots" / "11fe06").mkdir(parents=True)
    assert other_folder(cache).endswith("give " + str(cache / "snapshots" / "11fe06"))


def test_a_workdir_is_known_by_its_stages_and_the_last_one_is_given(tmp_path):
    (tmp_path / "config.json").touch()
    assert workdir(tmp_path) is None
    for name in ("prepare", "guide", "match"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stage.json").touch()
    assert workdir(tmp_path).endswith(f"give the folder of a stage in it, as {tmp_path / 'match'}")
    with pytest.raises(InputError, match="is a workdir"):
        kind_of(tmp_path)
