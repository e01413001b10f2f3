"""Jobs of processes that start in milliseconds, and runs that are finished."""

import json
import subprocess
import sys
import time

import pytest

from flashjax.tools.chaos.faults import Job


@pytest.fixture(scope="session")
def job_of():
    """`job_of(workdir, *codes)`."""

    def begun(workdir, *codes):
        """Processes that are ready for what comes."""

        def start():
            processes = [
                subprocess.Popen([sys.executable, "-c", f"{c}; time.sleep(600)"], stdout=-1)
                for c in codes
            ]
            for process in processes:
                process.stdout.readline()
            return Job(processes, workdir, start)

        return start()

    return begun


@pytest.fixture(scope="session")
def finished():
    """`finished(workdir, loss)`: a run whose guide ended with a loss."""

    def ended(workdir, loss):
        folder = workdir / "guide"
        (folder / "metrics").mkdir(parents=True)
        record = {
            "status": "done",
            "section": {"steps": 4},
            "seed": 0,
            "inputs": {},
            "seconds": 1.0,
        }
        record |= {"versions": {}, "results": {}, "contents": {}, "seconds": time.time()}
        (folder / "stage.json").write_text(json.dumps(record))
        line = {"step": 1, "guide/loss": loss, "time/step_seconds": time.time()}
        (folder / "metrics" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        (folder / "student.gguf").write_bytes(b"bytes")
        return workdir

    return ended
