"""Warm device workers: they outlive the driver that made them and serve the next job of the same tenant.

A worker is either free or claimed, and a claim is a key in the cluster's GCS that only the first to ask can write.  It
names the driver that holds the worker, and counts for as long as that driver lives.  Claims lie outside the workers, so
that one that hangs can still be taken from a driver that died: whoever looks next ends it.  A worker watches over its
own claim, and ends by itself once its holder is dead or it has been free for too long.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import Any, NoReturn

import ray
from ray.exceptions import RayError
from ray.experimental.internal_kv import (
    _internal_kv_del,
    _internal_kv_get,
    _internal_kv_list,
    _internal_kv_put,
    internal_kv_get_gcs_client,
)
from ray.util import list_named_actors

from workers.clip.config import BackboneConfig
from workers.launching.ray_group import NAMESPACE

LOOK_SECONDS = 1.0
"""Between two looks of a worker at its claim."""
ANSWER_SECONDS = 5.0
"""How soon a free worker must answer whoever claims it: one that is gone would cost a work one of its tries."""
_PREFIX = "worker/"
_CLAIMS = "cohort-workers"
"""Ray's own namespace for keys."""
_RETIRED = b"retired"
"""The claim on a worker that is being ended: nobody gets it any more."""


@dataclass(frozen=True)
class Warmth:
    """For whom a job's workers are kept once it is done."""

    service: str
    """Tells services that share a cluster apart."""
    tenant: str
    backbone: BackboneConfig
    seconds: float
    """How long a worker may be free before it ends."""


class WarmWorkers:
    """The warm workers of one tenant's kind, and the free ones of all, as one driver sees them."""

    def __init__(self, warmth: Warmth, *, device: str, num_threads: int, share: float) -> None:
        """`share`: of a GPU.  Workers are of one kind if all this, the backbone and the code they run are the same."""
        backbone = warmth.backbone
        words = f"{backbone.model.rpartition('/')[2]}-{backbone.precision}-{device}"
        kind = (backbone.model_dump_json(), device, num_threads, share, _code())
        self._tenant = f"{_PREFIX}{_name(warmth.tenant)}-{_digest(warmth.service, warmth.tenant)}/"
        self._kind = f"{self._tenant}{_name(words)}-{_digest(*kind)}/"
        self.seconds = warmth.seconds
        driver = ray.get_runtime_context().get_job_id()
        self.claim = json.dumps({"driver": driver, "token": token_hex(8)}).encode()
        """What this driver writes on the workers that it holds."""

    def new(self) -> str:
        """The name for another worker of this kind, claimed already."""
        name = f"{self._kind}{token_hex(4)}"
        taken = _claimed(name, self.claim)
        assert taken, f"{name} exists"
        return name

    def take(self) -> tuple[str, Any] | None:
        """Claims a free worker of this kind that answers: its name and its actor.  None: there is none."""
        for name in _free():
            if name.startswith(self._kind) and _claimed(name, self.claim):
                try:
                    actor = ray.get_actor(name, namespace=NAMESPACE)
                    ray.get(actor.beats.remote(), timeout=ANSWER_SECONDS)
                    return name, actor
                except (ValueError, RayError):  # it has ended, or its machine has and Ray does not know it yet
                    retire(name)
        return None

    def give_back(self, name: str) -> None:
        """Whoever is next may have the worker."""
        _internal_kv_del(name, namespace=_CLAIMS)

    def end_free_of_tenant(self) -> None:
        """Ends what the tenant has free, so that it holds no more than its jobs do."""
        _end_free(self._tenant)


def end_free(count: int | None = None) -> None:
    """Ends so many free workers, whosesoever they are; None: all."""
    _end_free(_PREFIX, count)


def end_orphans() -> None:
    """Ends the workers whose holders are dead, and forgets claims on workers that are gone."""
    claims = {key.decode(): _internal_kv_get(key, namespace=_CLAIMS) for key in _keys()}
    alive = set(_workers())  # after the claims: a worker that is being made is claimed first
    for name, claim in claims.items():
        if claim is None or not holder_is_dead(claim):
            continue
        if name in alive:
            retire(name)
        else:
            _internal_kv_del(name, namespace=_CLAIMS)


def retire(name: str) -> None:
    """Ends a worker, whatever it does; nobody can claim it from now on."""
    _internal_kv_put(name, _RETIRED, overwrite=True, namespace=_CLAIMS)
    try:
        ray.kill(ray.get_actor(name, namespace=NAMESPACE))
    except ValueError:
        return  # it has ended


def claim_on(name: str) -> bytes | None:
    """Who holds a worker; None: it is free."""
    return _internal_kv_get(name, namespace=_CLAIMS)


def watch_claim(name: str, seconds: float) -> None:
    """Runs in the worker of that name: ends it once its holder is dead, or it was free for so long."""
    try:
        _watch(name, seconds)
    finally:  # nobody would look after it any more
        os._exit(1)


def holder_is_dead(claim: bytes) -> bool:
    """Whether nobody computes under this claim any more."""
    if claim == _RETIRED:
        return True
    gcs = internal_kv_get_gcs_client()
    assert gcs is not None, "only a process that is connected to Ray asks"
    found = gcs.get_all_job_info(
        job_or_submission_id=json.loads(claim)["driver"],
        skip_submission_job_info_field=True,
        skip_is_running_tasks_field=True,
    )
    return all(job.is_dead for job in found.values())


def _watch(name: str, seconds: float) -> NoReturn:
    free_since: float | None = None
    while True:
        time.sleep(LOOK_SECONDS)
        with suppress(RayError):  # the GCS does not answer: nothing is decided without it
            claim = claim_on(name)
            if claim is not None:
                free_since = None
                if holder_is_dead(claim):
                    retire(name)
            elif free_since is None:
                free_since = time.monotonic()
            elif time.monotonic() - free_since > seconds and _claimed(name, _RETIRED):
                retire(name)


def _end_free(prefix: str, count: int | None = None) -> None:
    ended = 0
    for name in _free():
        if count is not None and ended >= count:
            return
        if name.startswith(prefix) and _claimed(name, _RETIRED):
            retire(name)
            ended += 1


def _free() -> Iterator[str]:
    claimed = {key.decode() for key in _keys()}
    yield from (name for name in _workers() if name not in claimed)


def _workers() -> list[str]:
    return [name for name in list_named_actors() if name.startswith(_PREFIX)]


def _keys() -> list[bytes]:
    return _internal_kv_list(_PREFIX, namespace=_CLAIMS)


def _claimed(name: str, claim: bytes) -> bool:
    """Writes the claim unless there is one; whether it did."""
    return not _internal_kv_put(name, claim, overwrite=False, namespace=_CLAIMS)


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


@cache
def _code() -> str:
    """What the workers' code is: one that was started with other code serves nobody."""
    room = Path(__file__).parents[1]
    files = sorted(room.rglob("*.py"))
    return _digest(*((str(path.relative_to(room)), path.read_bytes()) for path in files))
