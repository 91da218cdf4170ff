"""What is done to jobs and to the service, one function a fault.

A fault strikes by `scene.harm(...)`, which also waits until the job gets on again.  What a fault claims beyond the
job's own fate goes to `scene.notes`.
"""

import math
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from service.client import ApiError, Unreachable
from service.states import JobState
from tests.chaos import jobs
from tests.chaos.oracle import all_events
from tests.chaos.scene import Scene
from tests.chaos.service import wait_until

EXIT_SECONDS = 20.0
"""How soon a service that was asked to end must have ended."""
ORPHAN_SECONDS = 60.0
"""How soon a driver that nobody waits for must be gone."""
DOWNTIMES = (0.0, 20.0, 60.0)
"""Seconds that a head is away."""
PREEMPTION_SECONDS = 5
"""Between the warning and the end of a machine."""
PAUSES = 5
"""How often one job is paused."""


@dataclass(frozen=True)
class Fault:
    """A kind of harm."""

    name: str
    strike: Callable[[Scene], None]
    spec: Callable[..., dict[str, Any]] = jobs.two_groups
    """The job that is harmed."""
    cluster: bool = False
    """Whether it needs a cluster of several nodes that is not the service's own."""
    share: float = 1.0
    """How often it strikes, as a share of how often the others do."""

    def times(self, count: int) -> int:
        """How often it strikes, where a fault usually does `count` times."""
        return math.ceil(self.share * count)


def driver_killed(scene: Scene) -> None:
    """kill -9 of the job's driver, in any stage."""
    scene.any_moment()
    pid = scene.driver().pid
    scene.harm(lambda: scene.signal(pid, signal.SIGKILL))


def group_actor_killed(scene: Scene) -> None:
    """kill -9 of the actor that stands for a group that trains."""
    group = scene.in_training()
    pid = scene.actor("Group", f"{scene.job_id}/{group}").pid
    scene.harm(lambda: scene.signal(pid, signal.SIGKILL))


def device_worker_killed(scene: Scene) -> None:
    """kill -9 of a process that trains."""
    pid = scene.device_worker(scene.in_training())
    scene.harm(lambda: scene.signal(pid, signal.SIGKILL))


def device_worker_hung(scene: Scene) -> None:
    """SIGSTOP of a process that trains: it lives, and does nothing any more."""
    pid = scene.device_worker(scene.in_training())
    scene.harm(lambda: scene.signal(pid, signal.SIGSTOP))


def train_controller_killed(scene: Scene) -> None:
    """kill -9 of Ray Train's controller of a group over two devices."""
    scene.in_training()
    pid = scene.actor("TrainController").pid
    scene.harm(lambda: scene.signal(pid, signal.SIGKILL))


def rank_killed(scene: Scene) -> None:
    """kill -9 of one of the ranks of a group over two devices; the other one waits for it in a collective."""
    scene.in_training()
    pid = scene.actor("RayTrainWorker").pid
    scene.harm(lambda: scene.signal(pid, signal.SIGKILL))


def gcs_killed(scene: Scene) -> None:
    """kill -9 of the Ray head's GCS, which takes the cluster along.  The API stays up and says what is wrong."""
    scene.any_moment()
    gcs = scene.service.ray_process("gcs_server")

    def blow() -> None:
        gcs.send(signal.SIGKILL)
        wait_until(lambda: scene.service.client.ready()["checks"]["ray"] is not True, seconds=60, what="readyz tells")

    scene.harm(blow)
    wait_until(lambda: scene.service.client.ready()["ready"], seconds=60, what="the service is ready again")
    _no_failures(scene)


def control_plane_killed(scene: Scene) -> None:
    """kill -9 of the service's process at any moment; it is started again at once."""
    scene.any_moment()

    def blow() -> None:
        scene.service.kill()
        scene.service.start()

    scene.harm(blow)


def terminated_under_load(scene: Scene) -> None:
    """SIGTERM while a job trains and eight clients ask without a pause.  It ends soon, and well."""
    scene.in_training()
    answers: list[str] = []
    over = threading.Event()

    def blow() -> None:
        askers = [threading.Thread(target=_ask, args=(scene, answers, over)) for _ in range(8)]
        for asker in askers:
            asker.start()
        wait_until(lambda: "ok" in answers, seconds=60, what="a client is answered")
        status, seconds = scene.service.stop()
        over.set()
        for asker in askers:
            asker.join()
        if status != 0 or seconds > EXIT_SECONDS:
            scene.notes.append(f"SIGTERM: the service ended with {status} after {seconds:.1f} s")
        scene.service.start()

    scene.harm(blow)
    wrong = sorted({answer for answer in answers if answer not in ("ok", "gone", "503")})
    if wrong or "ok" not in answers:
        scene.notes.append(f"clients were told {wrong} ({answers.count('ok')} good answers)")


def orphaned(scene: Scene) -> None:
    """A driver loses who watches over it, or lives on though its attempt is over: it goes, and does no harm."""
    if scene.turn % 2 == 0:
        scene.any_moment()
        scene.driver()
        supervisor = scene.actor("JobSupervisor").pid
        scene.harm(lambda: scene.signal(supervisor, signal.SIGKILL))
        return
    scene.in_training()
    ray_jobs = scene.service.ray_jobs()
    sleeper = scene.service.ray_jobs(sys.executable, "-c", "import time; time.sleep(3600)")

    def blow() -> None:
        submission = sleeper.submit(scene.job_id, 0, "a driver of an attempt that is over")
        wait_until(
            lambda: submission not in ray_jobs.unfinished(), seconds=ORPHAN_SECONDS, what=f"orphan {submission} is gone"
        )

    scene.harm(blow)


def paused_and_resumed(scene: Scene) -> None:
    """Paused and resumed again and again; the pause is honoured at once, and nothing runs meanwhile."""
    client = scene.service.client
    for number in range(PAUSES):
        if number:
            scene.in_training(latest=number / PAUSES / 2)
        else:
            scene.any_moment()
        before = scene.position()  # a paused job is in no stage, and none of its groups is under way
        asked = time.monotonic()
        client.pause(scene.job_id)
        client.pause(scene.job_id)
        wait_until(lambda: scene.job.state == JobState.PAUSED or scene.job.is_finished, seconds=60, what="it pauses")
        took = time.monotonic() - asked
        if took > 15.0:
            scene.notes.append(f"a pause took {took:.1f} s")
        if scene.job.is_finished:
            return
        scene.harm(lambda: client.resume(scene.job_id), before)


def head_restarted(scene: Scene) -> None:
    """The cluster's head dies, alone or with all its nodes, and comes back after a while.  The API says so meanwhile,
    and no budget of the job pays for it."""
    cluster = scene.cluster
    assert cluster is not None
    scene.any_moment()

    def blow() -> None:
        if scene.turn % 2:
            cluster.tell("behead")
        else:
            cluster.kill()
        down_since = time.monotonic()
        wait_until(lambda: scene.service.client.ready()["checks"]["ray"] is not True, seconds=60, what="readyz tells")
        time.sleep(max(0.0, down_since + DOWNTIMES[scene.turn % len(DOWNTIMES)] - time.monotonic()))
        cluster.start()

    scene.harm(blow)
    _no_failures(scene)


def node_lost(scene: Scene) -> None:
    """A machine of the cluster is gone from one moment to the next, with whatever ran on it."""
    cluster = scene.cluster
    assert cluster is not None
    scene.in_training()
    scene.harm(lambda: cluster.tell("lose"))
    cluster.tell("add")


def node_preempted(scene: Scene) -> None:
    """A machine is told that it will be taken away, and then is."""
    cluster = scene.cluster
    assert cluster is not None
    scene.in_training()
    scene.harm(lambda: cluster.tell(f"preempt {PREEMPTION_SECONDS}"))
    cluster.tell("add")


FAULTS = (
    Fault("driver killed", driver_killed),
    Fault("group actor killed", group_actor_killed),
    Fault("device worker killed", device_worker_killed),
    Fault("device worker hung", device_worker_hung),
    Fault("Train controller killed", train_controller_killed, jobs.two_ranks),
    Fault("rank killed", rank_killed, jobs.two_ranks, share=0.4),
    Fault("GCS killed", gcs_killed),
    Fault("control plane killed", control_plane_killed),
    Fault("SIGTERM under load", terminated_under_load),
    Fault("orphaned driver", orphaned),
    Fault("pause and resume", paused_and_resumed, share=0.4),  # each job is paused five times
    Fault("head restarted", head_restarted, cluster=True),
    Fault("node lost", node_lost, cluster=True, share=0.4),
    Fault("node preempted", node_preempted, cluster=True, share=0.4),
)


def _no_failures(scene: Scene) -> None:
    if failures := scene.job.failures:
        scene.notes.append(f"{failures} attempt(s) count as failed, though it was Ray that was gone")


def _ask(scene: Scene, answers: list[str], over: threading.Event) -> None:
    """Asks one thing after another until it is over, and notes what came: ok, gone, or a status."""
    with scene.service.new_client(tries=1) as client:
        while not over.is_set():
            for ask in (client.job, client.groups, lambda job: all_events(client, job)):
                try:
                    ask(scene.job_id)
                    answers.append("ok")
                except Unreachable:
                    answers.append("gone")
                    time.sleep(0.05)
                except ApiError as error:
                    answers.append(str(error.status))
