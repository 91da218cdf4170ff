"""Works over the tiny CLIP and small folders of images, and one local Ray for the tests that need a real one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workers.clip.config import BackboneConfig
from workers.data.config import FolderSource, ShotsSplit, TaskConfig
from workers.data.roots import DataRoots
from workers.launching.work import GroupUnit, MeasureWork, PassWork, ProfileWork
from workers.methods.config import MmAPConfig
from workers.training.config import ProfileConfig, TrainConfig
from workers.training.signatures import SIGNATURES

METHOD = MmAPConfig(num_tokens=2, source_shape=(2, 2), depth=2)


@pytest.fixture
def make_pass(
    tiny_clip_dir: Path, task_folders: Callable[..., Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., PassWork]:
    """`make_pass({"g1": ("art", "photo")}, max_steps=3)`: groups by id, and settings of the training."""

    def make(
        groups: dict[str, tuple[str, ...]],
        *,
        job: str = "job-tiny",
        into: str = "groups",
        devices: int = 1,
        shots: dict[str, int] | None = None,
        **training: Any,
    ) -> PassWork:
        names = sorted({task for tasks in groups.values() for task in tasks})
        tasks = [
            TaskConfig(
                name=name,
                source=FolderSource(uri=str(task_folders(name))),
                split=ShotsSplit(shots=(shots or {}).get(name, 4), val_shots=1),
            )
            for name in names
        ]
        settings: dict[str, Any] = {"max_steps": 3, "batch_size": 4, "warmup_epochs": 0, "checkpoint_every": 50}
        config = TrainConfig(**settings | training)
        return PassWork(
            job=job,
            attempt=1,
            backbone=BackboneConfig(model=f"local-dir:{tiny_clip_dir}"),
            tasks=tuple(tasks),
            groups=tuple(GroupUnit(id, "plan", members, METHOD) for id, members in groups.items()),
            roots=DataRoots(file_roots=(str(tmp_path_factory.getbasetemp()),)),
            cache_dir=tmp_path / "cache",
            devices=devices,
            training=config,
            directories={id: tmp_path / into / id for id in groups},
        )

    return make


@pytest.fixture
def make_profile(
    make_pass: Callable[..., PassWork], tmp_path: Path
) -> Callable[[str], tuple[ProfileWork, MeasureWork]]:
    """`make_profile("job-x")`: a profile of three tasks, and the measuring of one of them at its prompts."""

    def make(job: str) -> tuple[ProfileWork, MeasureWork]:
        base = make_pass({"shared": ("art", "clipart", "photo")}, job=job)
        profile = ProfileConfig(max_steps=2, snapshots=2, microbatches=2, microbatch_size=2)
        common: dict[str, Any] = {name: getattr(base, name) for name in ("job", "attempt", "backbone", "roots")}
        common |= {"cache_dir": base.cache_dir, "profile": profile, "training": base.training, "method": METHOD}
        unit, late = GroupUnit("shared", "shared", base.groups[0].tasks, METHOD), base.tasks[1:2]
        first = ProfileWork(**common, tasks=base.tasks, groups=(unit,), directory=tmp_path / "profile")
        measuring = GroupUnit("measure", "measure", tuple(task.name for task in late), METHOD)
        stored, directory = first.directory / SIGNATURES, tmp_path / "late"
        return first, MeasureWork(**common, tasks=late, groups=(measuring,), directory=directory, stored=stored)

    return make
