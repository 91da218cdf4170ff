"""`cohort demo`, what `make demo` calls, on a part of the demo job: what it prints, and that nothing outlives it."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.acceptance.conftest import processes_of, wait_until

pytestmark = pytest.mark.ray
EXAMPLE = Path(__file__).parents[2] / "examples" / "demo.yaml"


def test_the_demo_tells_groups_and_accuracies_and_ends_in_succeeded(tmp_path: Path):
    job = yaml.safe_load(EXAMPLE.read_text())
    job["tasks"] = [task for task in job["tasks"] if task["name"] in ("digits-ink", "digits-noise", "shapes-filled")]
    job["profile"] |= {"max_steps": 4, "snapshots": 2, "microbatches": 2}
    job["training"] |= {"max_steps": 4}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(job))
    home = tmp_path / "home"
    command = [sys.executable, "-m", "service.cli", "--home", str(home), "demo", "--spec", str(tmp_path / "small.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.rstrip().splitlines()
    assert "SUCCEEDED" in lines[-1]
    for told in ("How the tasks agree", "The groups, and why", "Test accuracy", "zero-shot", "all in one"):
        assert told in done.stdout
    for told in ("report:", "bundle:", "API docs:", "Ray dashboard:"):
        assert any(line.startswith(told) for line in lines)
    bundle = next(line for line in lines if line.startswith("bundle:")).removeprefix("bundle:").strip()
    assert (Path(bundle) / "manifest.json").is_file() and (Path(bundle) / "report.html").is_file()
    wait_until(lambda: not processes_of(home), seconds=20, what="everything that was started has ended")
