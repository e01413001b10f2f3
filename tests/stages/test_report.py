"""The report of a run, from what its stages left behind."""

from types import SimpleNamespace

import numpy as np
import pytest

from flashjax import config as configs
from flashjax.convert.folder import read_pipeline, write_pipeline
from flashjax.stages import report
from flashjax.stages.report import branch_curves, file_sizes, stages_of
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


def test_branches_of_jobs_of_their_own_are_in_the_report(tmp_path, monkeypatch):
    """There is no folder of all branches then: it was asked for after everything was done."""
    config = configs.load("nano")
    monkeypatch.setattr(report, "collect", lambda config, workdir: SimpleNamespace(bars=[]))
    monkeypatch.setattr(report.report, "write_report", lambda path, content: path.write_text(""))
    for name in ("evaluate", "export", "quantize", "split-lo", "split-hi"):
        run_stage(name, {}, tmp_path, lambda _: {}, inputs={}, seed=0)
    for name, loss in (("lo", 1.0), ("hi", 2.0)):
        metrics = tmp_path / f"split-{name}" / "metrics"
        metrics.mkdir()
        (metrics / "metrics.jsonl").write_text(f'{{"step": 4, "{name}/student/loss": {loss}}}\n')
    curves = {
        name: [{"step": 4, "student/loss": loss}] for name, loss in (("lo", 1.0), ("hi", 2.0))
    }
    assert branch_curves(tmp_path, report.branches_of(config, tmp_path)) == curves
    assert stages_of(config, tmp_path)[4:6] == ["split-hi", "split-lo"]
    report.run(config, tmp_path)
    (tmp_path / "split").mkdir()
    assert stages_of(config, tmp_path) == list(report.STAGES)
