"""Identity and operation: every key of the demo and of the recipe is on its side."""

import pytest

from flashjax import config as configs
from flashjax.stages.identity import changes, forbidden

IDENTITY = ["guide.guide.substeps", "match.match.eta", "student.steps", "guide.job.steps"]
IDENTITY += ["guide.job.batch_size", "data.source", "data.size", "seed", "merge.weights.lo"]
OPERATION = ["mesh.fsdp", "split.mesh.dcn.data", "guide.job.log_steps"]
OPERATION += ["guide.job.checkpoint_steps", "match.job.stall_seconds"]
OPERATION += ["guide.guide.parts", "evaluate.chunk", "data.draw.batch_size"]
RATES = ["guide.optimiser.learning_rate", "match.fake_optimiser.beta1"]


@pytest.mark.parametrize("file", ["configs/nano.py", "configs/sd35_medium_4step.py"])
def test_keys_are_on_their_side(file):
    before = configs.to_dict(configs.load(file))
    for key in IDENTITY + OPERATION + RATES:
        now = configs.to_dict(configs.load(file))
        *parents, last = key.split(".")
        node = now
        for parent in parents:
            node = node[parent]
        node[last] = "another"
        found = changes(before, now)
        assert list(found) == [key]
        assert bool(forbidden(found, done=False)) == (key in IDENTITY), key
        assert bool(forbidden(found, done=True)) == (key in IDENTITY + RATES), key


def test_how_a_network_is_computed_is_operation():
    found = changes({"compute": {"dtype": "float32"}}, {"compute": {"dtype": "bfloat16"}})
    assert list(found) == ["compute.dtype"] and not forbidden(found, done=True)
