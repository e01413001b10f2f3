"""LoRA files in every spelling: the products by torch, and diffusers' own fusing where PEFT is."""

import json
import logging

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flashjax.convert.adapters import check_used, merged, open_loras, with_loras
from flashjax.convert.folder import write_pipeline
from flashjax.convert.naming import network
from flashjax.convert.pipeline import in_float32
from flashjax.convert.sai import params_of, split_file, tensors_of
from flashjax.convert.tensors import in_memory
from flashjax.convert.text import clip_to
from flashjax.convert.transformer import transformer_to
from flashjax.types import InputError

RANK, ALPHA, SCALE = 2, 3.0, 0.5
# Of every kind: fused by SAI, kept in another order by diffusers, at the edges, a convolution.
DIFFUSERS = (
    "transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_v",
    "transformer_blocks.1.attn.add_k_proj", "transformer_blocks.0.attn2.to_out.0",
    "transformer_blocks.2.ff.net.0.proj", "transformer_blocks.2.norm1_context.linear",
    "norm_out.linear", "context_embedder", "pos_embed.proj",
)  # fmt: skip
SAI = (
    "joint_blocks.0.x_block.attn.qkv", "joint_blocks.2.context_block.adaLN_modulation.1",
    "joint_blocks.1.x_block.mlp.fc2", "final_layer.linear", "x_embedder.proj",
)  # fmt: skip
CLIP = ("text_model.encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.1.mlp.fc2")


def products(weights, modules, *, seed=0):
    """Random halves for modules, and their weights as torch adds the products."""
    random = torch.Generator().manual_seed(seed)
    halves, wanted = {}, {name: torch.tensor(array) for name, array in weights.items()}
    for module in modules:
        weight = wanted[f"{module}.weight"]
        down = torch.randn(RANK, *weight.shape[1:], generator=random)
        up = torch.randn(len(weight), RANK, *(1 for _ in weight.shape[2:]), generator=random)
        halves[module] = down, up
        product = up.reshape(len(up), RANK) @ down.reshape(RANK, -1)
        wanted[f"{module}.weight"] = weight + SCALE * ALPHA / RANK * product.reshape(weight.shape)
    return halves, {name: value.numpy() for name, value in wanted.items()}


def lora_file(path, halves, spell, *, down="lora_A.weight", up="lora_B.weight", alpha=True):
    """A LoRA file whose modules are called as `spell` says."""
    tensors = {}
    for module, (first, second) in halves.items():
        tensors |= {f"{spell(module)}.{down}": first, f"{spell(module)}.{up}": second}
        if alpha:
            tensors[f"{spell(module)}.alpha"] = torch.tensor(ALPHA)
    save_file(tensors, path)
    return f"{path}:{SCALE}"


DOWN_UP = {"down": "lora_down.weight", "up": "lora_up.weight"}
OLDER = {"down": "lora.down.weight", "up": "lora.up.weight"}
ADAPTER = {"down": "lora_A.x.weight", "up": "lora_B.x.weight"}
SPELLINGS = {
    "diffusers": (DIFFUSERS, "transformer.{}", {}),
    "diffusers, older": (DIFFUSERS, "transformer.{}", OLDER),
    "PEFT": (DIFFUSERS, "base_model.model.{}", {}),
    "PEFT, adapter named": (DIFFUSERS, "base_model.model.{}", ADAPTER),
    "ComfyUI": (SAI, "diffusion_model.{}", DOWN_UP),
    "kohya": (SAI, "lora_unet_{}", DOWN_UP),
    "OneTrainer": (DIFFUSERS, "lora_transformer_{}", DOWN_UP),
    "LyCORIS": (SAI, "lycoris_{}", DOWN_UP),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_lora_in_any_spelling_is_torch_s_product(name, pipeline, tmp_path):
    modules, pattern, halves_named = SPELLINGS[name]
    flat = "_" in pattern.split("{")[0][-1]
    naming = "sai" if modules is SAI else "diffusers"
    config = pipeline.transformer_config
    given = dict(transformer_to(pipeline.transformer, config, naming))
    halves, wanted = products(given, modules)

    def spell(module):
        return pattern.format(module.replace(".", "_") if flat else module)

    loras = open_loras([lora_file(tmp_path / "l.safetensors", halves, spell, **halves_named)])
    sai = transformer_to(pipeline.transformer, config, "sai")
    found = merged("transformer", sai, loras, config=config)
    params, _ = params_of("transformer", found, in_float32("transformer"), config)
    back = transformer_to(params, config, naming)
    assert back.shapes == {key: array.shape for key, array in wanted.items()}
    for key, array in wanted.items():
        np.testing.assert_allclose(back[key], array, atol=1e-6, err_msg=key)
        assert (back[key] != given[key]).any() == (key.removesuffix(".weight") in modules)


@pytest.mark.parametrize("level", ["text_model.", ""])  # transformers 5 has none
@pytest.mark.parametrize(
    "prefix", ["text_encoder_2.", "lora_te2_", "text_encoders.clip_g.transformer."]
)
def test_text_encoders_have_their_products_too(prefix, level, pipeline, tmp_path, caplog):
    given = {name: dict(tensors_of(name, *part)) for name, part in pipeline.parts.items()}
    halves, wanted = products(given["clip_g"], CLIP)
    more, moved = products(given["transformer"], SAI)

    def spell(module):
        if module in SAI:
            return f"lora_unet_{module.replace('.', '_')}"
        module = module.replace("text_model.", level)
        return prefix + (module.replace(".", "_") if prefix.endswith("_") else module)

    text = lora_file(tmp_path / "l.safetensors", halves | more, spell)
    loras = open_loras([text, text])  # repeated: added twice
    parts = with_loras(pipeline.parts, loras, place=in_float32)
    for name, expected in (("clip_g", wanted), ("transformer", moved)):
        for key, array in tensors_of(name, *parts[name]).items():
            twice = given[name][key] + 2 * (expected[key] - given[name][key])
            np.testing.assert_allclose(array, twice, atol=1e-5, err_msg=key)
    assert parts["clip_l"] == pipeline.parts["clip_l"]
    with caplog.at_level(logging.INFO):
        check_used(loras[:1], ["transformer"])
    assert "left out 2 products for clip_g" in caplog.text
    with pytest.raises(InputError, match="is a LoRA of clip_g, transformer: nothing to add it to"):
        check_used(loras, ["t5"])


@pytest.mark.parametrize(
    ("config", "factor"),
    [
        ({"lora_alpha": 8}, 4),
        ({"lora_alpha": 8, "use_rslora": True}, 8 / 2**0.5),
        ({"lora_alpha": 8, "alpha_pattern": {"context_embedder": 1}}, 0.5),
        ({"lora_alpha": 8, "alpha_pattern": {"^context_embedder": 1}}, 0.5),
        ({"lora_alpha": 8, "alpha_pattern": {"^text_embedder": 2, "^con.*": 1, "con.*": 4}}, 0.5),
        ({}, 1),
    ],
)
@pytest.mark.parametrize("beside", [True, False])
def test_alpha_is_that_of_the_first_pattern_where_peft_and_diffusers_keep_it(
    config, factor, beside, pipeline, tmp_path
):
    given = transformer_to(pipeline.transformer, pipeline.transformer_config, "sai")
    halves, wanted = products(dict(given), ["context_embedder"])
    (down, up), prefix = (
        halves["context_embedder"],
        "base_model.model." if beside else "transformer.",
    )
    tensors = {f"{prefix}context_embedder.lora_A.weight": down}
    tensors[f"{prefix}context_embedder.lora_B.weight"] = up
    metadata = None
    if beside:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    elif config:
        told = {f"transformer.{key}": value for key, value in config.items()}
        metadata = {"lora_adapter_metadata": json.dumps(told)}
    name = "adapter_model.safetensors" if beside else "pytorch_lora_weights.safetensors"
    save_file(tensors, tmp_path / name, metadata)
    found = merged(
        "transformer", given, open_loras([str(tmp_path)]), config=pipeline.transformer_config
    )
    key = "context_embedder.weight"
    share = (wanted[key] - given[key]) / (SCALE * ALPHA / RANK)
    np.testing.assert_allclose(found[key] - given[key], factor * share, rtol=1e-4, atol=1e-5)


def test_sixteen_bits_stay_and_eight_become_thirty_two(pipeline, tmp_path):
    given = dict(transformer_to(pipeline.transformer, pipeline.transformer_config, "sai"))
    halves, wanted = products(given, ["context_embedder"])
    loras = open_loras([lora_file(tmp_path / "l.safetensors", halves, "lora_unet_{}".format)])
    key = "context_embedder.weight"
    half = in_memory(given | {key: given[key].astype(np.float16)})
    found = merged("transformer", half, loras, config=pipeline.transformer_config)
    assert found[key].dtype == np.float16
    delta = wanted[key] - given[key]
    np.testing.assert_array_equal(
        found[key], (half[key].astype(np.float32) + delta).astype(np.float16)
    )


PAIR = {"a.lora_A.weight": (2, 3), "a.lora_B.weight": (3, 2)}
KOHYA = "lora_unet_proj_out.lora_{}.weight"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            PAIR,
            r"1 of 1 products are of no weight of the transformer \(a\): it is a LoRA of another",
        ),
        (
            {KOHYA.format("down"): (2, 5), KOHYA.format("up"): (64, 2)},
            r"proj_out.lora_down.weight \(2, 5\) and .* do not fit proj_out.weight \(64, 24\)",
        ),
        ({"transformer.proj_out.lora_A.weight": (2, 24)}, "the other half of it is not there"),
        (
            PAIR | {"a.lora_magnitude_vector": (3,)},
            "a.lora_magnitude_vector: DoRA is no plain LoRA",
        ),
        ({"a.hada_w1_a": (2, 3), "a.hada_w1_b": (3, 2)}, "a.hada_w1_a, a.hada_w1_b: LoHa is no"),
        (PAIR | {"a.lora_B.bias": (3,)}, "a.lora_B.bias: a LoRA with full weights or biases is no"),
        (PAIR | {"a.diff_b": (3,)}, "a.diff_b: a LoRA with full weights or biases is no plain"),
        ({"lora_unet_a.lokr_w1": (2, 2), "lora_unet_a.lokr_w2": (2, 3)}, "LoKr is no plain LoRA"),
        (PAIR | {"a.dora_scale": (3, 1)}, "a.dora_scale: DoRA is no plain LoRA"),
        ({"lora_unet_a.oft_blocks": (2, 2, 2)}, "OFT is no plain LoRA"),
        ({f"lora_unet_a.{part}.weight": (2, 2) for part in ("a1", "a2", "b1", "b2")}, "GLoRA is"),
        ({"lora_unet_a.weight": (3, 1), "lora_unet_a.on_input": ()}, "IA3 is no plain LoRA"),
        (PAIR | {"a.lora_mid.weight": (2, 2)}, "a LoCon with a core is no plain LoRA"),
        ({f"text_encoder.a.lora_embedding_{half}": (2, 2) for half in "AB"}, "a LoRA of embedd"),
        (PAIR | {"a.strange": (2, 2)}, "a.strange: what this is is no plain LoRA"),
        (
            {"a.lora_A.x.weight": (2, 3), "a.lora_B.y.weight": (3, 2)},
            "holds the adapters x, y: keep one",
        ),
        ({"pos_embed": (3,)}, "is no LoRA: 1 tensors, pos_embed"),
    ],
)
def test_what_is_no_plain_lora_of_this_model_is_refused(tensors, message, pipeline, tmp_path):
    path = tmp_path / "l.safetensors"
    save_file({name: torch.ones(shape) for name, shape in tensors.items()}, path)
    with pytest.raises(InputError, match=message) as caught:
        with_loras(pipeline.parts, open_loras([f"{path}:1"]), place=in_float32)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


NO_NUMBER = float("nan")


@pytest.mark.parametrize(
    ("up", "alpha", "message"),
    [
        (torch.full((64, 2), NO_NUMBER), 2.0, "lora_up.weight @ .*lora_down.weight times 1 is not"),
        (torch.ones(64, 2), NO_NUMBER, "times nan is not finite: train or fetch it anew"),
        (torch.full((64, 2), 3e38), 2.0, "times 1 is not finite"),
        (torch.ones(64, 2, dtype=torch.int8), 2.0, "lora_up.weight is int8: codes, no factors of"),
    ],
)
def test_what_a_lora_makes_of_a_weight_is_finite_or_it_is_named(
    up, alpha, message, pipeline, tmp_path
):
    """The fault is the LoRA's, and not that of the weights that it is added to."""
    tensors = {KOHYA.format("down"): torch.ones(2, 24), KOHYA.format("up"): up}
    tensors["lora_unet_proj_out.alpha"] = torch.tensor(alpha)
    save_file(tensors, tmp_path / "l.safetensors")
    with pytest.raises(InputError, match=rf"l\.safetensors: .*{message}"):
        with_loras(pipeline.parts, open_loras([str(tmp_path / "l.safetensors")]), place=in_float32)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LOHA"}, "its config says peft_type 'LOHA', which is"),
        ({"peft_type": "LORA", "use_dora": True}, "its config says use_dora True"),
        ({"fan_in_fan_out": True}, "its config says fan_in_fan_out True"),
        ({"init_lora_weights": "pissa_niter_4"}, "was begun as 'pissa_niter_4': it is added to"),
        ({"init_lora_weights": "OLoRA"}, "was begun as 'olora'"),
        ({"init_lora_weights": "lora_ga"}, "was begun as 'lora_ga'"),
    ],
)
def test_a_config_of_another_kind_of_adapter_is_refused(config, message, tmp_path):
    save_file({n: torch.ones(s) for n, s in PAIR.items()}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2} | config))
    with pytest.raises(InputError, match=message):
        open_loras([str(tmp_path)])
    plain = {"init_lora_weights": True, "use_dora": False, "peft_type": "LORA", "lora_bias": None}
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2} | plain))
    open_loras([str(tmp_path)])


def test_a_folder_without_a_lora_says_what_it_has(tmp_path):
    with pytest.raises(InputError, match="is no LoRA: it has no pytorch_lora_weights"):
        open_loras([str(tmp_path)])
    torch.save({}, tmp_path / "adapter_model.bin")
    with pytest.raises(InputError, match=r"adapter_model\.bin is a pickle"):
        open_loras([f"{tmp_path}:0.5"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}:strong", "give FILE:SCALE, as in style.safetensors:0.8"),
        ("{}:nan", "the scale is no finite number"),
        ("/nowhere/l.safetensors:1", "/nowhere/l.safetensors does not exist"),
        ("someone/style-lora:1", "is a name on the Hugging Face hub"),
    ],
)
def test_a_wrong_flag_says_what_to_give(text, message, tmp_path):
    with pytest.raises(InputError, match=message):
        open_loras([text.format(tmp_path / "l.safetensors")])


@pytest.mark.parametrize("modules", [DIFFUSERS[:1], SAI[:1], CLIP[:1]])
def test_products_of_several_files_are_added_before_a_weight_is_rounded(
    modules, pipeline, tmp_path
):
    """Each is less than half of what bfloat16 tells apart at 1; two of them are more."""
    (module,) = modules
    name = "clip_l" if modules == CLIP[:1] else "transformer"
    config = pipeline.parts[name][1]
    ones = tensors_of(name, *pipeline.parts[name])
    ones = in_memory(
        {key: np.ones(shape, ml_dtypes.bfloat16) for key, shape in ones.shapes.items()}
    )
    spelled = module if modules != CLIP[:1] else f"text_encoder.{module}"
    size = config.width
    for number in range(2):
        rows = 3 * size if module.endswith("qkv") else size
        halves = {"A": torch.ones(1, size), "B": torch.full((rows, 1), 0.003)}
        tensors = {f"{spelled}.lora_{half}.weight": part for half, part in halves.items()}
        save_file(tensors, tmp_path / f"{number}.safetensors")
    loras = open_loras([str(tmp_path / f"{number}.safetensors") for number in range(2)])
    found = merged(name, ones, loras, config=config)
    assert max(np.max(array.astype(np.float32)) for array in found.values()) == 1 + 2**-7


def test_an_adapter_inside_a_checkpoint_is_merged(pipeline, caplog):
    given = dict(transformer_to(pipeline.transformer, pipeline.transformer_config, "sai"))
    halves, wanted = products(given, SAI[:3])
    head, saved = "base_model.model.", f"{SAI[3]}."

    def wrap(name):
        layer, _, end = name.rpartition(".")
        if name.startswith(saved):
            return f"{head}{layer}.modules_to_save.default.{end}"
        return f"{head}{layer}.base_layer.{end}" if layer in SAI else head + name

    inside = {wrap(name): array for name, array in given.items()}
    inside[f"{head}{saved}original_module.weight"] = np.zeros((64, 24), np.float32)
    for module, (down, up) in halves.items():
        scaled = SCALE * ALPHA / RANK * down.numpy()
        inside[f"{head}{module}.lora_A.default.weight"] = scaled
        inside[f"{head}{module}.lora_B.default.weight"] = up.numpy()
    with caplog.at_level(logging.INFO):
        found = split_file(in_memory(inside))["transformer"]
    assert "merged 3 products of the LoRA inside, alpha being the rank" in caplog.text
    assert found.shapes == {name: array.shape for name, array in given.items()}
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, atol=1e-5, err_msg=name)
    inside["base_model.model.final_layer.linear.lora_A.other.weight"] = np.ones((2, 24), np.float32)
    with pytest.raises(InputError, match="holds the adapters default, other: keep one"):
        network(in_memory(inside), "transformer", "sai")


def test_diffusers_fuses_the_same_weights(pipeline, tokenizers, tmp_path):
    from diffusers import StableDiffusion3Pipeline

    write_pipeline(tmp_path / "model", pipeline, tokenizers_from=tokenizers, dtype=np.float32)
    given = dict(transformer_to(pipeline.transformer, pipeline.transformer_config, "diffusers"))
    halves, _ = products(given, DIFFUSERS)
    text, _ = products(dict(clip_to(pipeline.text["clip_g"], pipeline.text_config.clip_g)), CLIP)

    def spell(module):
        return f"text_encoder_2.{module}" if module in CLIP else f"transformer.{module}"

    path = tmp_path / "l.safetensors"
    loras = open_loras([lora_file(path, halves | text, spell, alpha=False)])
    theirs = StableDiffusion3Pipeline.from_pretrained(tmp_path / "model", torch_dtype=torch.float32)
    theirs.load_lora_weights(str(tmp_path), weight_name=path.name)
    theirs.fuse_lora(lora_scale=SCALE, components=["transformer", "text_encoder_2"])
    theirs.unload_lora_weights()
    parts = with_loras(pipeline.parts, loras, place=in_float32)
    ours = transformer_to(*parts["transformer"], "diffusers")
    for key, value in theirs.transformer.state_dict().items():
        np.testing.assert_allclose(ours[key], value.numpy(), atol=1e-6, err_msg=key)
    ours = clip_to(*parts["clip_g"])
    for key, value in theirs.text_encoder_2.state_dict().items():
        np.testing.assert_allclose(ours[key], value.numpy(), atol=1e-6, err_msg=key)
