"""The example jobs go from spec to bundle, on trees of the data sets' layout and with a tiny model in CLIP's place."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.minidomainnet_manifests import DOMAINS, convert
from service.artifacts import JobFiles
from service.driver import run_job
from service.settings import Settings
from service.spec import JobSpec, parse_spec
from service.states import JobState
from service.store import Store
from workers.bundle import load_bundle
from workers.launching.inline import InlineLauncher

EXAMPLES = Path(__file__).parents[2] / "examples"
CLASSES = ("Alarm_Clock", "Backpack", "Batteries")


def _draw(path: Path, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, size=(20, 24, 3), dtype=np.uint8)).save(path)


def _office_home(root: Path, rng: np.random.Generator) -> None:
    for domain in ("Art", "Clipart", "Product", "Real World"):
        for name in CLASSES:
            for number in range(8):
                _draw(root / "office_home" / domain / name / f"{number:05d}.jpg", rng)


def _minidomainnet(root: Path, rng: np.random.Generator) -> None:
    folder = root / "minidomainnet"
    for domain in DOMAINS:
        for split, count in (("train", 5), ("test", 2)):
            lines = []
            for label, name in enumerate(CLASSES):
                for number in range(count):
                    image = f"{domain}/{name}/{split}_{number:06d}.jpg"
                    _draw(folder / image, rng)
                    lines.append(f"{image} {label}")
            (folder / "splits_mini").mkdir(exist_ok=True)
            (folder / "splits_mini" / f"{domain}_{split}.txt").write_text("\n".join(lines) + "\n")
    convert(folder)


def _tiny(spec: JobSpec, model: Path) -> JobSpec:
    """The example with another backbone, as deep as that is, and cut short; tasks, splits and all else stay."""
    return spec.model_copy(
        update={
            "backbone": spec.backbone.model_copy(
                update={"model": f"local-dir:{model}", "pretrained": None, "precision": "fp32"}
            ),
            "method": spec.method.model_copy(update={"depth": 2, "num_tokens": 2}),
            "profile": spec.profile.model_copy(update={"max_steps": 3, "snapshots": 2, "microbatches": 2}),
            "training": spec.training.model_copy(update={"max_steps": 3}),
        }
    )


@pytest.mark.parametrize(
    ("example", "lay_out"), [("office_home_6shot", _office_home), ("minidomainnet_3shot", _minidomainnet)]
)
def test_the_example_goes_from_spec_to_bundle(example: str, lay_out, tmp_path: Path, tiny_clip_dir: Path):
    lay_out(tmp_path, np.random.default_rng(0))
    spec = _tiny(parse_spec((EXAMPLES / f"{example}_seed1.yaml").read_bytes()), tiny_clip_dir)
    settings = Settings(home=tmp_path / "home", data_roots=[str(tmp_path), str(tiny_clip_dir)], poll_seconds=0.02)
    store = Store("sqlite://")
    store.create_schema()
    job = store.create_job(spec)[0].id
    launcher = InlineLauncher()
    files = JobFiles(settings.storage, job)
    try:
        state = run_job(job, store.start_attempt(job), store=store, files=files, launcher=launcher, settings=settings)
    finally:
        launcher.close()
    assert state == JobState.SUCCEEDED, store.get_job(job).reason
    bundle = load_bundle(files.path("bundle"))
    bundle.verify()
    assert bundle.tasks == tuple(task.name for task in spec.tasks)
    assert {row.baseline for row in store.results(job)} == {None, "zero_shot", "alone", "all"}
