"""Laws of failure classes: every error has one, whoever raised it."""

import errno
import os
import pickle

import pytest
import ray.exceptions
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from workers.failures import DataError, FailureClass, classify, is_full


def os_error(name: str) -> OSError:
    number = getattr(errno, name)
    return OSError(number, os.strerror(number), "somewhere")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("method.depth=99"), FailureClass.USER),
        (DataError("Task 'art': 3 of 9 images cannot be read"), FailureClass.DATA),
        (MemoryError(), FailureClass.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), FailureClass.OUT_OF_MEMORY),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory"), FailureClass.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: out of memory"), FailureClass.OUT_OF_MEMORY),
        (RuntimeError("CUDA driver error: out of memory"), FailureClass.OUT_OF_MEMORY),
        (LocalEntryNotFoundError("no connection, and not in the cache"), FailureClass.INFRASTRUCTURE),
        (ray.exceptions.OutOfMemoryError("the node was low on memory"), FailureClass.OUT_OF_MEMORY),
        (ray.exceptions.ActorDiedError(), FailureClass.INFRASTRUCTURE),
        (ray.exceptions.ActorUnavailableError("gone", None), FailureClass.INFRASTRUCTURE),
        (ray.exceptions.NodeDiedError("gone"), FailureClass.INFRASTRUCTURE),
        (ray.exceptions.RpcError("the GCS is away"), FailureClass.INFRASTRUCTURE),
        (ray.exceptions.AuthenticationError("WrongClusterID"), FailureClass.INFRASTRUCTURE),
        (ray.exceptions.RayActorError("", "its node is drained", False, True), FailureClass.PREEMPTION),
        (ConnectionResetError("reset"), FailureClass.INFRASTRUCTURE),
        (TimeoutError(), FailureClass.INFRASTRUCTURE),
        (os_error("EBUSY"), FailureClass.INFRASTRUCTURE),
        (os_error("ENOMEM"), FailureClass.OUT_OF_MEMORY),
        *[
            (os_error(name), FailureClass.STORAGE)
            for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EACCES", "EROFS", "ESTALE")
        ],
        (FileNotFoundError("gone"), FailureClass.STORAGE),
        (KeyError("task"), FailureClass.BUG),
        (RuntimeError("device-side assert triggered"), FailureClass.BUG),
    ],
)
def test_every_error_has_its_class(error, expected):
    assert classify(error) is expected


def test_only_a_lack_of_room_is_full():
    assert [name for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EACCES") if is_full(os_error(name))] == [
        "ENOSPC",
        "EDQUOT",
        "EFBIG",
    ]


def test_a_data_error_survives_pickling():
    assert str(pickle.loads(pickle.dumps(DataError("Task 'art'")))) == "Task 'art'"
