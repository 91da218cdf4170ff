"""The notebook does what it shows, with the bundle of a job that was just run."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from service.artifacts import JobFiles
from service.driver import run_job
from service.settings import Settings
from service.spec import parse_spec
from service.states import JobState
from service.store import Store
from workers.bundle import load_bundle
from workers.demo.tasks import demo_listing
from workers.launching.inline import InlineLauncher

NOTEBOOK = Path(__file__).parents[2] / "examples" / "predict.ipynb"
SPEC = {
    "name": "notebook",
    "backbone": {"model": "demo"},
    "tasks": [
        {"name": name, "source": {"kind": "demo", "task": name}, "split": {"shots": 2, "test_per_class": 1}}
        for name in ("digits-ink", "digits-noise")
    ],
    "method": {"kind": "mmap", "num_tokens": 2, "source_shape": [2, 2], "depth": 1, "sharing": "all"},
    "training": {"max_steps": 2, "batch_size": 4},
    "baselines": [],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a bundle in it."""
    settings = Settings(home=tmp_path / "home", poll_seconds=0.02)
    store = Store("sqlite://")
    store.create_schema()
    job = store.create_job(parse_spec(SPEC))[0].id
    launcher, files = InlineLauncher(), JobFiles(settings.storage, job)
    try:
        state = run_job(job, store.start_attempt(job), store=store, files=files, launcher=launcher, settings=settings)
    finally:
        launcher.close()
    assert state is JobState.SUCCEEDED, store.get_job(job).reason
    (tmp_path / "bundle").symlink_to(str(files.path("bundle")))
    return tmp_path


@pytest.mark.slow
def test_the_notebook_loads_a_bundle_and_predicts(folder: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):  # nothing of this user's is read or left
        monkeypatch.setenv(name, str(folder / "jupyter"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, startup_timeout=240, timeout=240, resources=where).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    told = [line for output in outputs if output.get("name") == "stdout" for line in output["text"].splitlines()]

    classifier = load_bundle(folder / "bundle").classifier("digits-ink")
    test = [item for item in demo_listing("digits-ink").items if item.split == "test"]
    predicted = classifier.predict([item.read() for item in test])
    right = sum(classifier.class_names[item.label] == name for item, name in zip(test, predicted, strict=True))
    last_of_each = {item.label: name for item, name in zip(test, predicted, strict=True)}
    assert told == [
        "('digits-ink', 'digits-noise')",
        f"{load_bundle(folder / 'bundle').manifest['groups'][0]['id']}: digits-ink, digits-noise",
        str(list(last_of_each.values())),
        f"{right} of {len(test)} test images",
    ]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_the_notebook_holds_no_results_of_another_day():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells if cell.cell_type == "code")
