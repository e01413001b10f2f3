"""Signs of life: the last step is noted, silence is explained, an end is no silence."""

import json
import time

from flashjax.train.heartbeat import heartbeat


def stacks_after(folder, *, seconds, until, step=7):
    """What process 3 has written about its threads, once `until` of it holds."""
    with heartbeat(folder, 3, stall_seconds=seconds) as hook:
        if step:
            hook(step, None, {})
        deadline = time.monotonic() + 60
        while not until((folder / "stacks-3.txt").read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
    return (folder / "stacks-3.txt").read_text()


def test_a_process_that_falls_silent_says_where_it_is(tmp_path):
    text = stacks_after(tmp_path, seconds=0.05, until=lambda text: "stacks_after" in text)
    assert "process 3: step 7 has ended; stacks follow if none ends for 0.05 s" in text
    assert "test_heartbeat.py" in text  # the line that waits
    assert json.loads((tmp_path / "heartbeat-3.json").read_text())["step"] == 7


def test_a_first_step_that_never_ends_is_a_hang_too(tmp_path):
    text = stacks_after(tmp_path, seconds=0.05, until=lambda text: "stacks_after" in text, step=0)
    assert "process 3: step 0 has ended" in text and "stacks_after" in text


def test_the_log_says_how_far_every_process_came(tmp_path, caplog):
    for process, step in ((0, 7), (1, 6), (10, 7)):
        (tmp_path / f"heartbeat-{process}.json").write_text(json.dumps({"step": step}))
    stacks_after(tmp_path, seconds=0.05, until=lambda _: caplog.records)
    (record,) = caplog.records
    assert record.levelname == "ERROR" and "no step ends after step 7" in record.message
    assert "step 6: process 1; step 7: process 0, 3, 10" in record.message
    assert f"{tmp_path}/stacks-*.txt" in record.message


def test_a_process_that_goes_on_says_nothing_of_its_threads(tmp_path):
    text = stacks_after(tmp_path, seconds=1000.0, until=lambda text: True)
    assert len(text.splitlines()) == 1
