"""The documentation builds without a warning, from what the package says of itself."""

import os
import subprocess
import sys
from pathlib import Path

from flashjax.tools.explain import keys

ROOT = Path(__file__).parents[2]


def test_the_site_is_built_without_a_warning_and_has_every_key(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    told = subprocess.run(build, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert told.returncode == 0 and "WARNING" not in told.stderr, told.stderr
    config = (tmp_path / "config.html").read_text()
    lost = [
        key.path
        for key in keys()
        if f"<code>{key.path.partition('.')[2] or key.path}</code>" not in config
    ]
    assert not lost
    assert "<math" in (tmp_path / "method.html").read_text()
    assert "flashjax.train.match.make_student_step" in (tmp_path / "api.html").read_text()
