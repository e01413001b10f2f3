"""One check of a transformer for every kind of source: what is not exactly a model's is refused."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flashjax.checkpoint import save_params
from flashjax.cli import main
from flashjax.convert.folder import read_transformer
from flashjax.convert.transformer import transformer_to
from flashjax.quantize.codecs.codec import F16
from flashjax.quantize.codecs.tensors import encode_tensor
from flashjax.quantize.containers.gguf import EncodedTensor, open_gguf, write_gguf
from flashjax.sources import open_transformer
from flashjax.types import InputError

FC = "joint_blocks.1.x_block.mlp.fc2.weight"
CHANGES = {  # of the tensors under SAI's names, and what is said of each
    "a lost tensor": (lambda t: t.pop(FC), f"missing {FC} \\(256, 1024\\)"),
    "a lost block": (
        lambda t: [t.pop(name) for name in list(t) if name.startswith("joint_blocks.0.")],
        r"missing joint_blocks.0.*and \d+ more|no part of an SD3 model: joint_blocks.0",
    ),
    "a wrong shape": (
        lambda t: t.update({FC: t[FC][:, :128]}),
        f"{FC} has shape \\(256, 128\\), not \\(256, 1024\\)",
    ),
    "a foreign tensor": (
        lambda t: t.update({"joint_blocks.1.x_block.norm.weight": np.ones(4, np.float32)}),
        "unexpected joint_blocks.1.x_block.norm.weight",
    ),
    "a LoRA beside": (
        lambda t: t.update({FC.replace("weight", "lora_A.weight"): np.ones((4, 4), np.float32)}),
        "a LoRA lies beside the weights",
    ),
}


@pytest.fixture(scope="module")
def weights(tiny_teacher):
    """The tiny teacher's transformer under Stability AI's names."""
    params, config = read_transformer(tiny_teacher / "transformer")
    return dict(transformer_to(params, config, "sai"))


def as_single(tensors, path):
    path = path / "model.safetensors"
    save_file({name: torch.tensor(np.ascontiguousarray(a)) for name, a in tensors.items()}, path)
    return path


def as_gguf(tensors, path):
    def encoded():
        for name, array in tensors.items():
            codes, _ = encode_tensor(array, F16, name=name)
            yield EncodedTensor(name, array.shape, F16, codes)

    write_gguf(path / "model.gguf", encoded(), keys={"general.architecture": "sd3"})
    return path / "model.gguf"


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("write", [as_single, as_gguf])
def test_nothing_is_written_of_what_is_no_whole_transformer(
    write, change, weights, tmp_path, capsys
):
    tensors, (mutate, message) = dict(weights), CHANGES[change]
    mutate(tensors)
    source, out = write(tensors, tmp_path), tmp_path / "out"
    for names in ("gguf-q8_0,comfy-int8", "mlx-6,torchao-int8", "onnx-fp16"):
        flags = ["--source", str(source), "--out", str(out), "--format", names]
        assert main(["quantize", *flags]) == 2
        said = capsys.readouterr().err
        with pytest.raises(InputError, match=message):
            raise InputError(said)
        assert len(said) < 700 and said.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("change", ["a lost tensor", "a foreign tensor", "a wrong shape"])
def test_a_folder_is_checked_as_a_file_is(change, tiny_teacher, tmp_path):
    folder = tmp_path / "transformer"
    folder.mkdir()
    (folder / "config.json").write_text((tiny_teacher / "transformer/config.json").read_text())
    stored = load_file(tiny_teacher / "transformer" / "diffusion_pytorch_model.safetensors")
    name = "transformer_blocks.1.ff.net.2.weight"
    if change == "a lost tensor":
        del stored[name]
    elif change == "a wrong shape":
        stored[name] = stored[name][:, :128].contiguous()
    else:
        stored["transformer_blocks.1.norm.weight"] = torch.ones(4)
    save_file(stored, folder / "diffusion_pytorch_model.safetensors")
    with pytest.raises(InputError, match=r"transformer_blocks\.1\.\w+"):
        open_transformer(folder)


def test_what_a_stage_wrote_is_checked_against_the_sizes_of_its_base(tiny_teacher, tmp_path):
    params, config = read_transformer(tiny_teacher / "transformer")
    save_params(tmp_path / "params", {"transformer": params})
    known = {"transformer": config}
    found = open_transformer(tmp_path, known=known)
    assert found.naming == "sai" and found.config == config
    params["final"]["kernel"] = params["final"]["kernel"][:, :32]
    save_params(tmp_path / "other" / "params", {"transformer": params})
    with pytest.raises(InputError, match=r"final/kernel has shape \(256, 32\), not \(256, 64\)"):
        open_transformer(tmp_path / "other", known=known)


def test_a_gguf_with_all_networks_gives_all_of_them(tiny_teacher, tmp_path, weights):
    """As stable-diffusion.cpp converts a whole file: its own text encoders count."""
    assert (
        main(["export", "--source", str(tiny_teacher), "--out", str(tmp_path), "--format", "sai"])
        == 0
    )
    whole = {
        name: value.numpy() for name, value in load_file(tmp_path / "model.safetensors").items()
    }
    name = "text_encoders.t5xxl.transformer.encoder.final_layer_norm.weight"
    whole[name] = whole[name] * 2
    source = as_gguf(whole, tmp_path)
    flags = ["--source", str(source), "--base", str(tiny_teacher), "--format", "sai"]
    assert main(["export", *flags, "--out", str(tmp_path / "again"), "--dtype", "float16"]) == 0
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == whole.keys()
    for key, array in whole.items():
        np.testing.assert_array_equal(again[key].numpy(), array.astype(np.float16), err_msg=key)
    assert open_gguf(source).shapes == {key: array.shape for key, array in whole.items()}


def test_a_name_of_the_hub_or_a_folder_of_pickles_is_called_so(tmp_path, capsys):
    torch.save({}, tmp_path / "model.ckpt")
    for source, message in {
        "stabilityai/stable-diffusion-3.5-medium": "is a name on the Hugging Face hub, no path",
        str(tmp_path): "model.ckpt is a pickle, which flashjax never reads",
        str(tmp_path / "model.ckpt"): "model.ckpt is a pickle, which flashjax never reads",
    }.items():
        for verb in ("quantize", "export"):
            flags = ["--source", source, "--out", str(tmp_path / "out")]
            more = ["--format", "gguf-q8_0"] if verb == "quantize" else []
            assert main([verb, *flags, *more]) == 2
            said = capsys.readouterr().err
            assert message in said and said.count("\n") == 1


def test_a_place_where_nothing_is_is_called_so(tmp_path, capsys):
    """Links that lead nowhere or in a circle, too: what is read, a base, and what is made."""
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    out = ["--out", str(tmp_path / "out")]
    for name, message in {
        "circle": "circle is a link that leads nowhere",
        "dangling": "dangling is a link that leads nowhere",
        "absent": "absent does not exist: check the path",
    }.items():
        path = str(tmp_path / name)
        for flags in (["--source", path], ["--source", str(tmp_path), "--base", path]):
            assert main(["export", *flags, *out]) == 2
            said = capsys.readouterr().err
            assert message in said and said.count("\n") == 1
    circle = str(tmp_path / "circle" / "x.safetensors")
    assert main(["export", "--source", str(tmp_path), "--out", circle]) == 2
    assert "nothing can be written in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("scheduler/scheduler_config.json", "scheduler_config.json does not exist"),
        ("tokenizer_2/merges.txt", "merges.txt: no such file"),
    ],
)
def test_what_a_folder_lacks_is_said_before_anything_is_written(
    tiny_teacher, tmp_path, file, message, capsys
):
    """Whatever the order of the formats."""
    shutil.copytree(tiny_teacher, tmp_path / "model")
    (tmp_path / "model" / file).unlink()
    flags = ["--source", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    assert main(["export", *flags, "--format", "sai,diffusers"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
