"""The flags of every verb. Nothing heavy is imported here, so that `--help` is there at once.

A choice that is named here is what the tool knows under that name: tests compare them.
"""

import argparse
from collections.abc import Callable

from flashjax.tools.flags import checkpoints, instruments, others, road

FLAGS: dict[str, Callable[[argparse.ArgumentParser], None]] = {  # of what needs no config
    "export": checkpoints.export,
    "quantize": checkpoints.quantize,
    "evaluate": checkpoints.evaluate,
    "sample": checkpoints.sample,
    "configs": others.configs,
    "explain": others.explain,
    "launch": others.launch,
    "completion": others.completion,
    "plan": instruments.plan,
    "bench": instruments.bench,
    "status": instruments.status,
    "verify": instruments.verify,
    "chaos": instruments.chaos,
    "ablate": instruments.ablate,
    "probe": instruments.probe,
}
stage = road.stage
