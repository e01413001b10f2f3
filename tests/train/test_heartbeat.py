"""Signs of life: the last step is noted, silence is explained, an end is no silence."""

import json
import time

from flashjax.train.heartbeat import heartbeat


def stacks_after(folder, *, seconds, until):
    """What process 3 has written about its threads, once `until` of it holds."""
    with heartbeat(folder, 3, stall_seconds=seconds) as hook:
        hook(7, None, {})
        deadline = time.monotonic() + 60
        while not until((folder / "stacks-3.txt").read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
    return (folder / "stacks-3.txt").read_text()


def test_a_process_that_falls_silent_says_where_it_is(tmp_path):
    text = stacks_after(tmp_path, seconds=0.05, until=lambda text: "stacks_after" in text)
    assert "process 3: no step ended for 0.05 s after 7" in text
    assert "test_heartbeat.py" in text  # the line that waits
    assert json.loads((tmp_path / "heartbeat-3.json").read_text())["step"] == 7


def test_a_process_that_goes_on_says_nothing_of_its_threads(tmp_path):
    text = stacks_after(tmp_path, seconds=1000.0, until=lambda text: True)
    assert len(text.splitlines()) == 1
