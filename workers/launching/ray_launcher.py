"""Runs works on Ray: device workers that compute, and one named actor per group that tells.

A group over several devices is handed to its own actor, which starts a Ray Train run; all other works go to device
workers that keep their backbone.  Everything started here belongs to the driver's Ray job and ends with it, but for
warm workers: those that are healthy are given back, and others' free ones give way where devices are short.
"""

import importlib.util
import itertools
import math
import time
from collections.abc import Sequence
from secrets import token_hex
from typing import Any

import ray
from ray._private.state import state as cluster_state
from ray.exceptions import ActorAlreadyExistsError

from workers.launching.launcher import DuplicateAttempt, Launcher, Running
from workers.launching.placement import beside_me
from workers.launching.ray_group import LONG, NAMESPACE, Group, group_actor_name
from workers.launching.ray_metrics import StageMetrics
from workers.launching.ray_running import Actor, RayRunning
from workers.launching.ray_warm import Warmth, end_orphans
from workers.launching.ray_workers import DeviceWorkers, Worker
from workers.launching.search_config import SearchConfig
from workers.launching.work import GroupUnit, SearchWork, Work

DRAIN_POLL_SECONDS = 5.0
"""Between two looks for machines that are about to be taken away."""
_GROUP: Any = ray.remote(concurrency_groups={LONG: 1})(Group)  # pyright: ignore[reportCallIssue]: Ray's types lack it


class RayLauncher(Launcher):
    """Device workers on a Ray cluster that the calling process is, or now becomes, a driver of."""

    def __init__(
        self,
        *,
        device: str = "auto",
        max_device_workers: int = 2,
        num_threads: int = 1,
        gpus_per_worker: float = 1.0,
        max_gpus: int = 0,
        devices: int | None = None,
        warmth: Warmth | None = None,
        address: str = "auto",
    ) -> None:
        """
        Args:
            device: auto, cpu or cuda.  ValueError for one that the cluster lacks.
            max_device_workers: most workers at a time on CPU; GPUs are all used.
            gpus_per_worker: share of one GPU, at most 1.
            max_gpus: that the cluster grows to by itself for workers that wait; used beyond those that it has.
            devices: most device workers at a time, of any kind; None: no such limit.
            warmth: for whom workers are kept in the end; None: for nobody.
            address: the cluster, unless this process is connected already.
        """
        if not ray.is_initialized():
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False)
        self.num_threads = num_threads
        self._gpus_per_worker = gpus_per_worker
        self._max_gpus = max_gpus
        self._max_device_workers = max_device_workers
        self._devices = math.inf if devices is None else devices
        self._device = self._resolve(device)
        end_orphans()
        self._workers = DeviceWorkers(
            device=self._device,
            num_threads=num_threads,
            gpus_per_worker=gpus_per_worker,
            is_limited=devices is not None,
            warmth=warmth,
        )
        self._busy: list[tuple[Worker, RayRunning]] = []
        self._groups: dict[str, Actor] = {}
        self._stage = StageMetrics()
        self._unlike: list[tuple[RayRunning, int]] = []
        """Works that are no device worker's, and how many devices each wants."""
        self._token, self._numbers = token_hex(8), itertools.count()
        self._looked_for_drains_at = 0.0

    def capacity(self, devices: int = 1) -> int:
        offered = self._offered(self._device)
        if devices > 1:
            if offered < devices:
                raise ValueError(
                    f"devices_per_group={devices}: the cluster has {offered:g} {_unit(self._device)}. "
                    f"Use at most {int(offered)}, or add machines."
                )
            return max(1, int(min(offered, self._devices) // devices))
        return self._workers_on(offered)

    def sharers(self) -> int:
        if self._device == "cuda":
            return workers_on_gpus(1, self._gpus_per_worker)
        largest = max(node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"])
        return max(1, min(self.capacity(), int(largest // self.num_threads)))

    def check_search(self, search: SearchConfig) -> None:
        if search.searcher == "optuna" and importlib.util.find_spec("optuna") is None:
            raise ValueError(
                "search: searcher=optuna, but Optuna is not installed where jobs run. Install it there "
                "(pip install optuna), or use searcher: random."
            )

    def announce(self, job: str, attempt: int, groups: Sequence[GroupUnit], *, devices: int = 1) -> None:
        for unit in groups:
            if unit.id not in self._groups:
                self._groups[unit.id] = _create_group(job, attempt, unit, devices)

    def show_stage(self, job: str, stage: str) -> None:
        self._stage.show(job, stage)

    def start(self, work: Work) -> RayRunning:
        if isinstance(work, SearchWork):
            return self._start_search(work)
        if work.devices == 1:
            # before the groups' actors, which can wait: nothing computes until a worker is there
            self._workers.hold(self._workers_on(self._present(self._device)))  # no machine comes for what may be needed
        self.announce(work.job, work.attempt, work.groups, devices=work.devices)
        groups = {unit.id: self._groups[unit.id] for unit in work.groups}
        if work.devices > 1:
            return self._start_ranks(work, groups)
        self._collect_idle()
        running = RayRunning(work, f"{self._device} worker", groups)
        self._assign(running, self._workers.lend())
        return running

    def wait(self, running: Sequence[Running], seconds: float) -> None:
        self._move_to_free_workers()
        self._unlike = [(running, devices) for running, devices in self._unlike if not running.has_begun]
        waiting = sum(not worker.has_started() for worker, _ in self._busy)
        self._workers.press(waiting + sum(devices for _, devices in self._unlike))
        self._leave_draining_nodes()
        results = [each.result for each in running if isinstance(each, RayRunning)]
        if results:
            ray.wait(results, num_returns=1, timeout=seconds)
        else:
            time.sleep(seconds)

    def close(self) -> None:
        self._collect_idle()
        self._workers.close()
        for worker, _ in self._busy:
            worker.end()
        for group in self._groups.values():
            ray.kill(group)
        self._busy, self._groups = [], {}

    def _assign(self, running: RayRunning, worker: Worker) -> None:
        actor, order = worker.actor, f"{self._token}-{next(self._numbers)}"
        running.runs_on(
            actor,
            actor.run.remote(order, running.work, running.groups, self._workers.claim),
            stop=lambda: actor.stop.remote(order),
            end=worker.end,
            revive=lambda group: self._revive(running.work, group, actor),
        )
        self._busy.append((worker, running))

    def _revive(self, work: Work, group: str, worker: Actor) -> Actor | None:
        """A new actor for a group whose own died while its work goes on."""
        unit = next(unit for unit in work.groups if unit.id == group)
        try:
            self._groups[group] = actor = _create_group(work.job, work.attempt, unit, work.devices)
        except DuplicateAttempt:  # its name is not free yet
            return None
        worker.adopt.remote(group, actor)
        return actor

    def _end_group(self, unit: GroupUnit) -> None:
        """Ends a group's actor with all that it started; the group's next work makes a new one."""
        if (actor := self._groups.pop(unit.id, None)) is not None:
            ray.kill(actor)

    def _leave_draining_nodes(self) -> None:
        """Asks works on machines that are about to be taken away to checkpoint and end, while there is time."""
        if time.monotonic() - self._looked_for_drains_at < DRAIN_POLL_SECONDS:
            return
        self._looked_for_drains_at = time.monotonic()
        draining = cluster_state.get_draining_nodes()  # what Ray Train looks at; there is no public way
        for _, running in self._busy:
            if running.node in draining:
                running.leave()

    def _start_ranks(self, work: Work, groups: dict[str, Actor]) -> RayRunning:
        assert len(groups) == 1, "a work over several devices holds one group"
        self._collect_idle()
        self._workers.end_idle()  # their devices are needed by the ranks
        self._workers.make_room(work.devices, share=1.0)
        (group,) = groups.values()
        running = RayRunning(work, f"{work.devices} {self._device} ranks", groups)
        running.runs_on(
            group,
            group.run_ranks.remote(work, self._device),
            stop=group.request_stop.remote,
            end=lambda: self._end_group(work.groups[0]),
        )
        self._unlike.append((running, work.devices))
        return running

    def _start_search(self, work: SearchWork) -> RayRunning:
        """Trials are processes of Ray Tune's, each with what a device worker has; idle workers make room for them."""
        self.announce(work.job, work.attempt, work.groups)
        self._collect_idle()
        self._workers.end_idle()
        (unit,) = work.groups
        group = self._groups[unit.id]
        at_once = min(work.search.max_concurrent or self.capacity(), self.capacity())
        self._workers.make_room(at_once)
        resources: dict[str, float] = {"cpu": self.num_threads}
        if self._device == "cuda":
            resources["gpu"] = self._gpus_per_worker
        running = RayRunning(work, f"{at_once} {self._device} trial(s) at a time", {unit.id: group})
        running.runs_on(
            group,
            group.run_search.remote(work, self._device, resources, at_once),
            stop=group.request_stop.remote,
            end=lambda: self._end_group(unit),
        )
        self._unlike.append((running, at_once))
        return running

    def _collect_idle(self) -> None:
        """Takes back the workers whose work has ended; one that is spoilt is replaced when next needed."""
        ended = [(worker, running) for worker, running in self._busy if running.has_ended]
        self._busy = [(worker, running) for worker, running in self._busy if not running.has_ended]
        for worker, running in ended:
            if running.is_spoilt:
                worker.end()
            else:
                self._workers.idle.append(worker)

    def _move_to_free_workers(self) -> None:
        """Moves works from workers that have not started to workers that are free.

        Two jobs that each hold one device and wait for a second would otherwise wait for each other for ever.
        """
        self._collect_idle()
        for worker, running in list(self._busy):
            if not worker.has_started() and (free := self._workers.started()) is not None:
                self._busy.remove((worker, running))
                worker.end()
                self._assign(running, free)

    def _resolve(self, device: str) -> str:
        if device == "auto":
            return "cuda" if self._offered("cuda") > 0 else "cpu"
        if self._offered(device) <= 0:
            raise ValueError(
                f"device={device}: the cluster has no {_unit(device)}. Use auto, or add a machine with one."
            )
        return device

    def _workers_on(self, count: float) -> int:
        """How many workers run at a time on so many GPUs, or CPUs where it computes on those; at least one."""
        if self._device == "cuda":
            return int(min(workers_on_gpus(count, self._gpus_per_worker), self._devices))
        return int(max(1, min(self._max_device_workers, count / self.num_threads, self._devices)))

    def _offered(self, device: str) -> float:
        """What there is, or comes when it is asked for."""
        return max(self._present(device), self._max_gpus if device == "cuda" else 0)

    def _present(self, device: str) -> float:
        return ray.cluster_resources().get(_unit(device), 0.0)


def workers_on_gpus(gpus: float, share: float) -> int:
    """How many workers that each take a share of one GPU fit: whole workers on every GPU, none across two."""
    return max(1, int(gpus) * int(1 / share + 1e-9))


def _unit(device: str) -> str:
    return "GPU" if device == "cuda" else "CPU"


def _create_group(job: str, attempt: int, unit: GroupUnit, devices: int) -> Actor:
    """One named actor, beside its driver: it computes nothing, and a machine with GPUs is not kept for it.

    Creating it is the fence: Ray refuses a name that is taken.
    """
    name = group_actor_name(job, unit.id)
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "name": name, "namespace": NAMESPACE}
    options["scheduling_strategy"] = beside_me()
    if devices > 1 or unit.kind == "search":
        # Ray Train and Tune read these when they start, and Train's default of one look at the ranks every two seconds
        # is slow beside a prompt's training, and it gives up ranks that wait a minute for devices that others hold, or
        # that an autoscaler brings; Train's guard over the devices of a controller that dies asks whatever Ray this
        # machine started last, unless it is told which, and then they are never given back
        options["runtime_env"] = {
            "env_vars": {
                "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
                "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",
                "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": f"{365 * 86_400}",
                "RAY_CHDIR_TO_TRIAL_DIR": "0",
                "OMP_NUM_THREADS": "1",
            }
        }
    try:
        return _GROUP.options(**options).remote(job, attempt, unit.id, list(unit.tasks))
    except ActorAlreadyExistsError as error:
        raise DuplicateAttempt(
            f"Attempt {attempt} of {job} found the actor {name!r} alive: another attempt still runs. "
            "Stop that attempt's Ray job first."
        ) from error
