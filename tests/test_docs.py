"""The reference pages in docs/ follow from the code."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_reference_pages_are_current():
    done = subprocess.run(
        [sys.executable, "tools/docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_setting_is_explained():
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert not [line for line in page.splitlines() if line.startswith("| `") and line.endswith("|  |")]
