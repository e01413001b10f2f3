"""What must hold after a rehearsal: each check raises AssertionError, or says what it saw."""

import importlib.util
import json
from pathlib import Path

import numpy as np

from flashjax import trees
from flashjax.checkpoint import load_params
from flashjax.data.prompts import read_prompts
from flashjax.stages.stage import read_stage, stage_results

STAGES = "import prepare guide match split merge export quantize evaluate report".split()
SIGMAS = [1.0, 0.9, 0.75, 0.5]  # of four steps, shift 3


def stages_are_done(workdir: Path) -> str:
    records = {name: read_stage(workdir / name) or {"status": "absent"} for name in STAGES}
    left = [name for name, record in records.items() if record["status"] != "done"]
    assert not left, f"not done: {', '.join(left)}"
    return ", ".join(f"{name} {record['seconds']:.0f} s" for name, record in records.items())


def both_layouts_are_one_model(folder: Path, single: Path) -> str:
    """`import` of the folder and of the single file left equal parameters."""
    count = 0
    for name in ("transformer", "vae", "text"):
        ours, theirs = (
            trees.flatten(load_params(workdir / "import" / "params" / name))
            for workdir in (folder, single)
        )
        assert ours.keys() == theirs.keys(), f"{name} has other parameters"
        for path, leaf in ours.items():
            assert np.array_equal(leaf, theirs[path]), f"{name}/{path} differs"
            count += leaf.size
    return f"{count:,} parameters"


def training_went_on(log: str) -> str:
    """After the kill `match` did not begin again."""
    (line,) = [line for line in log.splitlines() if "match goes on from step" in line]
    step = int(line.rpartition("step ")[2])
    assert step > 0, line
    for stage in ("import", "prepare", "guide"):
        assert f"{stage} skipped: already done" in log, f"{stage} was done again"
    return f"from step {step}"


def dirt_is_listed(workdir: Path, pictures: int) -> str:
    """Every picture is kept, held out or listed with a reason; what is broken is never kept."""
    prepared = stage_results(workdir / "prepare")
    counts, held = prepared["counts"], prepared["validation"]
    lines = (workdir / "prepare" / "skipped.jsonl").read_text().splitlines()
    reasons = [json.loads(line)["why"] for line in lines]
    assert counts["kept"] + counts["skipped"] + held == pictures, (counts, held, pictures)
    broken = [why for why in reasons if "broken" in why]
    assert broken and len(reasons) == counts["skipped"], reasons
    return f"{counts['kept']} kept, {held} held out, listed: {'; '.join(reasons)}"


def buckets_are_several(workdir: Path, least: int) -> str:
    manifest = json.loads((workdir / "prepare" / "manifest.json").read_text())
    sizes = {bucket["name"]: bucket["count"] for bucket in manifest["buckets"]}
    assert len(sizes) >= least, sizes
    return ", ".join(f"{count} of {name}" for name, count in sizes.items())


def prompts_are_clean(prompts: Path, count: int) -> str:
    found = read_prompts(prompts)
    assert len(found) == count and not found[0].startswith("\ufeff"), found[:1]
    assert not any("\r" in prompt or prompt != prompt.strip() for prompt in found)
    return f"{count} prompts, the longest of {max(map(len, found))} characters"


def report_has_every_row(workdir: Path, prompts: int) -> str:
    """Every sampler is in the report, and drew every prompt."""
    page = (workdir / "report" / "report.html").read_text()
    rows = stage_results(workdir / "evaluate")["rows"]
    missing = [row["name"] for row in rows if row["name"] not in page]
    assert rows and not missing, f"missing: {missing}"
    fewer = [row["name"] for row in rows if "steps" in row and row["samples"] != prompts]
    assert not fewer, f"not all of {prompts} prompts: {fewer}"
    return f"{len(rows)} rows, {len(page) / 1e6:.1f} MB"


def diffusers_draws(folder: Path, side: int) -> str:
    """`StableDiffusion3Pipeline` loads the exported folder and draws with the student's grid."""
    if not importlib.util.find_spec("torch") or not importlib.util.find_spec("diffusers"):
        return "left out: no torch and diffusers here"
    import torch
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    size = {"height": side, "width": side, "max_sequence_length": 256}
    found = pipe(
        "a flower in a garden",
        num_inference_steps=len(SIGMAS),
        sigmas=SIGMAS,
        guidance_scale=1.0,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
        **size,
    ).images[0]
    assert found.shape == (side, side, 3) and np.isfinite(found).all() and found.std() > 0.01
    return f"{side} x {side} pixels"


def gguf_opens(file: Path, workdir: Path) -> str:
    """The `gguf` package reads as many numbers as the merged student has."""
    if not importlib.util.find_spec("gguf"):
        return "left out: no gguf here"
    import gguf

    tensors = gguf.GGUFReader(file).tensors
    wanted = trees.count(load_params(workdir / "merge" / "params"))
    found = sum(int(tensor.n_elements) for tensor in tensors)
    assert found == wanted, f"{found} numbers, the student has {wanted}"
    kinds = sorted({tensor.tensor_type.name for tensor in tensors})
    return f"{len(tensors)} tensors of {', '.join(kinds)}"
