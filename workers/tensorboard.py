"""TensorBoard's event files of one attempt of a job: a run per group, in the job's own storage.

For people who watch with TensorBoard; nothing reads them back, and nothing that goes wrong here reaches the job.
"""

import importlib
import io
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workers.storage import append
from workers.training.results import Progress

log = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
"""Between two writes to the storage, where every write to a file costs as much as the file is long."""


class EventFiles:
    """`<folder>/<group>/events.out.tfevents.<attempt>`, for every group that tells of progress."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self._folder = folder
        self._name = f"events.out.tfevents.{attempt:06}"  # they are read in the order of their names
        self._waiting: dict[str, io.BytesIO] = {}
        self._begun: set[str] = set()
        self._flushed_at = time.monotonic()
        self._is_broken = False

    def add(self, progress: Iterable[Progress], *, flush: bool = False) -> None:
        """Adds the numbers of every group's new steps; `flush`: what waits is written now."""
        if self._is_broken:
            return
        try:
            for each in progress:
                self._add(each)
            if flush or time.monotonic() - self._flushed_at > FLUSH_SECONDS:
                self._flush()
        except Exception as error:  # a package that is missing, a storage that refuses: training goes on
            self._is_broken = True
            log.warning("no more is written for TensorBoard: %s: %s", type(error).__name__, error)

    def _add(self, progress: Progress) -> None:
        proto = importlib.import_module("tensorboard.compat.proto.event_pb2")  # slow, and few drivers need it at once
        file = self._waiting.setdefault(progress.group, io.BytesIO())
        records = importlib.import_module("tensorboard.summary.writer.record_writer").RecordWriter(file)

        def write(**fields: Any) -> None:
            records.write(proto.Event(wall_time=time.time(), **fields).SerializeToString())

        if progress.group not in self._begun:
            self._begun.add(progress.group)
            write(file_version="brain.Event:2")
            # steps that an attempt before went beyond its last checkpoint are taken again: these count
            write(step=progress.step, session_log=proto.SessionLog(status=proto.SessionLog.START))
        numbers = {
            **{f"loss/{task}": value for task, value in progress.losses.items()},
            **{f"val_loss/{task}": value for task, value in progress.val_losses.items()},
            **{f"val_score/{task}": value for task, value in progress.scores.items()},
            "images_per_second": progress.images_per_second,
            "lr": progress.lr,
        }
        values = [{"tag": tag, "simple_value": value} for tag, value in numbers.items()]
        write(step=progress.step, summary={"value": values})

    def _flush(self) -> None:
        waiting, self._waiting, self._flushed_at = self._waiting, {}, time.monotonic()
        for group, file in waiting.items():
            append(self._folder / group / self._name, file.getvalue())
