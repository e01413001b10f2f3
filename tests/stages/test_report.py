"""The report of a run, from what its stages left behind."""

import numpy as np
import pytest

from flashjax.convert.folder import read_pipeline, write_pipeline
from flashjax.stages.report import file_sizes
from flashjax.stages.stage import run_stage


@pytest.mark.parametrize("shard_bytes", [10**10, 10**6])
def test_a_transformer_in_shards_is_as_large_as_all_of_them(shard_bytes, shallow_teacher, tmp_path):
    """diffusers cuts at 10 GB: every transformer of more weights comes in several files."""

    def export(folder):
        pipeline = read_pipeline(shallow_teacher)
        write_pipeline(
            folder / "diffusers",
            pipeline,
            tokenizers_from=shallow_teacher,
            dtype=np.float16,
            max_shard_bytes=shard_bytes,
        )
        (folder / "student.safetensors").write_bytes(b"")
        return {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*.safetensors")}

    run_stage("export", {}, tmp_path, export, inputs={}, seed=0)
    run_stage("quantize", {}, tmp_path, lambda _: {"q8_0": {"bytes": 7}}, inputs={}, seed=0)
    transformer, small, single = file_sizes(tmp_path, bits=16)
    files = list((tmp_path / "export/diffusers/transformer").glob("*.safetensors"))
    assert (len(files) > 1) == (shard_bytes == 10**6)
    assert transformer.size_bytes == sum(file.stat().st_size for file in files) > 10**6
    assert transformer.name == "transformer, 16-bit safetensors"
    assert (small.size_bytes, single.size_bytes) == (7, 0)
