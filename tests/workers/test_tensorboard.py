"""Event files as TensorBoard itself reads them."""

import logging
import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from workers.tensorboard import EventFiles
from workers.training.results import Progress


def progress(step: int, *, group: str = "g1", loss: float = 0.5, scores: dict[str, float] | None = None) -> Progress:
    return Progress(group, step, 10, {"art": loss}, scores or {}, {}, images_per_second=120.0, lr=0.1)


def read(folder: Path, tag: str) -> list[tuple[int, float]]:
    found = EventAccumulator(str(folder))
    found.Reload()
    return [(event.step, event.value) for event in found.Scalars(tag)]


def test_what_is_written_is_what_tensorboard_reads(tmp_path: Path) -> None:
    files = EventFiles(tmp_path, attempt=1)
    files.add([progress(1), progress(2, loss=0.25, scores={"art": 0.75}), progress(1, group="g2", loss=2.0)])
    files.add([progress(3, loss=math.nan)], flush=True)
    losses = read(tmp_path / "g1", "loss/art")
    assert losses[:2] == [(1, 0.5), (2, 0.25)]
    assert losses[2][0] == 3 and math.isnan(losses[2][1])
    assert read(tmp_path / "g1", "val_score/art") == [(2, 0.75)]
    assert read(tmp_path / "g1", "images_per_second") == [(1, 120.0), (2, 120.0), (3, 120.0)]
    assert read(tmp_path / "g2", "loss/art") == [(1, 2.0)]


def test_steps_that_a_later_attempt_takes_again_count_as_it_took_them(tmp_path: Path) -> None:
    first = EventFiles(tmp_path, attempt=1)
    first.add([progress(step, loss=1.0) for step in (1, 2, 3, 4)], flush=True)
    later = EventFiles(tmp_path, attempt=2)
    later.add([progress(step, loss=0.5) for step in (3, 4, 5)], flush=True)
    assert read(tmp_path / "g1", "loss/art") == [(1, 1.0), (2, 1.0), (3, 0.5), (4, 0.5), (5, 0.5)]


def test_a_storage_that_refuses_is_told_once_and_harms_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    files = EventFiles(tmp_path / "file", attempt=1)
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            files.add([progress(step)], flush=True)
    assert len(caplog.records) == 1
    assert "TensorBoard" in caplog.text and "could not be written" in caplog.text
