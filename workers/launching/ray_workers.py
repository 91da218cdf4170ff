"""The device workers that one driver holds: found warm or made, lent to works, and in the end given back or ended."""

import time
from typing import Any

import ray

from workers.launching.ray_actors import DeviceWorker
from workers.launching.ray_group import NAMESPACE
from workers.launching.ray_running import Actor
from workers.launching.ray_warm import Warmth, WarmWorkers, end_free, retire

LOOK_SECONDS = 1.0
"""Between two looks for free workers that could give way to what waits."""
START_SECONDS = 5.0
"""What waits no longer than that may only be starting."""
PATIENCE_SECONDS = 30.0
"""What waits longer may need what lies in parts on several machines: all free workers give way to it."""


class Worker:
    """A device worker's process, which may still wait for its device."""

    def __init__(self, actor: Actor, name: str = "", *, started: bool = False) -> None:
        """`name`: of a warm one, which is claimed."""
        self.actor, self.name = actor, name
        self._ready = None if started else actor.__ray_ready__.remote()

    def has_started(self) -> bool:
        if self._ready is not None and ray.wait([self._ready], timeout=0)[0]:
            self._ready = None
        return self._ready is None

    def end(self) -> None:
        if self.name:
            retire(self.name)
        else:
            ray.kill(self.actor)


class DeviceWorkers:
    """Those that have nothing to do, and the ways to more of them."""

    def __init__(
        self, *, device: str, num_threads: int, gpus_per_worker: float, is_limited: bool, warmth: Warmth | None
    ) -> None:
        """
        Args:
            device: cpu or cuda.
            gpus_per_worker: share of one GPU.
            is_limited: whether the tenant may not hold more devices than its jobs were granted.
            warmth: for whom workers are kept in the end; None: for nobody.
        """
        self._device, self._num_threads, self._is_limited = device, num_threads, is_limited
        self._share = gpus_per_worker if device == "cuda" else 0.0
        self._warm: WarmWorkers | None = None
        if warmth is not None:
            self._warm = WarmWorkers(warmth, device=device, num_threads=num_threads, share=self._share)
        self.idle: list[Worker] = []
        self._has_all = False
        self._waits_since: float | None = None
        self._looked_at = 0.0

    @property
    def claim(self) -> bytes | None:
        """What a warm worker wants to see before it does a work."""
        return None if self._warm is None else self._warm.claim

    def hold(self, count: int) -> None:
        """Lets that many start while the first one works, so that training finds them with torch loaded."""
        if not self._has_all:
            self._find(count)
            self._has_all = True

    def lend(self) -> Worker:
        """One with nothing to do, rather one that has started; where there is none, another one."""
        if not self.idle:
            self._find(1)
        self.idle.sort(key=Worker.has_started)
        return self.idle.pop()

    def started(self) -> Worker | None:
        """One with nothing to do that has started, if there is any."""
        found = next((worker for worker in self.idle if worker.has_started()), None)
        if found is not None:
            self.idle.remove(found)
        return found

    def end_idle(self) -> None:
        """Ends those that have nothing to do; the next work for a worker starts them anew."""
        for worker in self.idle:
            worker.end()
        self.idle, self._has_all = [], False

    def close(self) -> None:
        """Ends those that have nothing to do, or gives them back where they are kept."""
        for worker in self.idle:
            if self._warm is not None and worker.has_started():
                self._warm.give_back(worker.name)
            else:
                worker.end()
        self.idle = []

    def make_room(self, count: int, *, share: float | None = None) -> None:
        """Ends as many free workers as it takes for so many processes to find a device.  `share`: of a GPU each."""
        left = ray.available_resources()
        room = left.get("CPU", 0.0) / self._num_threads
        if self._device == "cuda":
            room = min(room, left.get("GPU", 0.0) / (share or self._share))
        if count > room:
            end_free(count - int(room))

    def press(self, waiting: int) -> None:
        """Lets free workers take the place of those that wait for a device, or give way to them.

        `waiting`: processes that have not started, those that have nothing to do left out.
        """
        starting = [worker for worker in self.idle if not worker.has_started()]
        waiting, now = waiting + len(starting), time.monotonic()
        if not waiting:
            self._waits_since = None
            return
        self._waits_since = self._waits_since or now
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        if (found := self._take()) is not None:  # whose work has not begun moves to it
            self.idle.append(found)
            if starting:
                self.idle.remove(starting[0])
                starting[0].end()
        elif now - self._waits_since > PATIENCE_SECONDS:
            end_free()
        elif now - self._waits_since > START_SECONDS:
            self.make_room(waiting)

    def _find(self, count: int) -> None:
        """Adds warm ones and, where there are too few, new ones."""
        missing = count
        while missing and (found := self._take()) is not None:
            self.idle.append(found)
            missing -= 1
        if missing:
            if self._warm is not None and self._is_limited:
                self._warm.end_free_of_tenant()
            self.make_room(missing)
            self.idle += [self._create() for _ in range(missing)]

    def _take(self) -> Worker | None:
        found = None if self._warm is None else self._warm.take()
        return None if found is None else Worker(found[1], found[0], started=True)

    def _create(self) -> Worker:
        threads = str(self._num_threads)
        env = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        options: dict[str, Any] = {"num_gpus": self._share} if self._device == "cuda" else {}
        name, kept = "", None
        if self._warm is not None:
            name = self._warm.new()
            kept = name, self._warm.seconds
            options |= {"name": name, "namespace": NAMESPACE, "lifetime": "detached"}
        actor: Actor = (
            ray.remote(DeviceWorker)
            .options(
                num_cpus=self._num_threads,
                max_concurrency=3,
                max_restarts=0,
                runtime_env={"env_vars": env},
                **options,
            )
            .remote(self._device, kept)
        )
        return Worker(actor, name)
