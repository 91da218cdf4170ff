"""A real service in a process of its own, with handles on everything that can be harmed: processes, actors, Ray."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from service.client import Cohort
from service.connection import Connection
from service.processes import Process
from service.ray_head import RayHead
from service.ray_jobs import DRIVER, RayJobs
from service.settings import Settings, child_environment

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 300.0
STOP_SECONDS = 90.0


class Overdue(Exception):
    """What had to come true did not, in the time that it had."""


@dataclass(frozen=True)
class Actor:
    """An actor that Ray takes for alive."""

    kind: str
    """Its class."""
    name: str
    pid: int


class Service:
    """`cohort up` on a port that stays the same over all its lives."""

    def __init__(self, home: Path, settings: Mapping[str, str]) -> None:
        """`settings`: as environment variables name them, without `COHORT_`."""
        self.home = home
        self.port = free_port()
        names = {f"COHORT_{name.upper()}": value for name, value in settings.items()}
        self._environment = child_environment() | names | {"PYTHONPATH": str(ROOT)}
        self._settings = Settings(home=home)
        self._cluster = (settings["ray_address"], settings["ray_token"]) if "ray_address" in settings else None
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Cohort | None = None

    @property
    def client(self) -> Cohort:
        """Keeps asking through a restart."""
        assert self._client is not None, "the service was never started"
        return self._client

    def new_client(self, *, tries: int) -> Cohort:
        """Another one, which asks again so often and soon."""
        connection = Connection.read(self.home)
        assert connection is not None
        return Cohort(connection.url, connection.key, tries=tries, sleep=lambda seconds: time.sleep(min(seconds, 0.3)))

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns once it can do its work."""
        self.launch()
        wait_until(self._is_ready, seconds=START_SECONDS, what="the service is ready")

    def launch(self) -> None:
        """Starts the process; what it says goes to `service.log`."""
        self.home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "service.cli", "--home", str(self.home), "up", "--port", str(self.port)]
        with (self.home / "service.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """As `kill -9`: nothing is cleaned up."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Asks it to end; the exit status, and how many seconds that took."""
        assert self._process is not None
        began = time.monotonic()
        self._process.send_signal(number)
        status = self._process.wait(timeout=STOP_SECONDS)
        return status, time.monotonic() - began

    def end(self) -> None:
        """Whatever state it is in, it is over afterwards, and so is a Ray head of its own."""
        if self._client is not None:
            self._client.close()
        if self._process is not None and self._process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        RayHead(self._settings).stop()

    # Ray

    def ray_jobs(self, *entrypoint: str) -> RayJobs:
        """What the coordinator uses, too; with another program as driver if one is given."""
        return RayJobs(*self._ray(), entrypoint=entrypoint or DRIVER)

    def ray_process(self, program: str) -> Process:
        """The process of the embedded head that runs this program, e.g. `gcs_server`."""
        mark = RayHead(self._settings).mark
        (found,) = [
            process
            for process, argv in command_lines()
            if argv and Path(argv[0]).name == program and mark.encode() in _environ(process.pid)
        ]
        return found

    def actors(self, job_id: str | None = None) -> list[Actor]:
        """Actors that are alive or will be; with a job, only those that bear its name."""
        found = [
            Actor(each["class_name"], each["name"] or "", each["pid"])
            for each in self.ray_state("actors")
            if each["state"] != "DEAD"
        ]
        return [actor for actor in found if job_id is None or actor.name.startswith(f"{job_id}/")]

    def ray_state(self, kind: str) -> list[dict[str, Any]]:
        """What Ray's state API lists: `actors`, `placement_groups`, `nodes`."""
        address, token = self._ray()
        query = {"limit": "10000", "detail": "1"}
        headers = {"Authorization": f"Bearer {token}"}
        answer = requests.get(f"{address}/api/v0/{kind}", params=query, headers=headers, timeout=30)
        answer.raise_for_status()
        return answer.json()["data"]["result"]["result"]

    def _ray(self) -> tuple[str, str]:
        if self._cluster is not None:
            return self._cluster
        address = json.loads((self.home / "ray_head.json").read_text())["address"]
        return address, RayHead(self._settings).token

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise Overdue(f"the service ended with {self._process.returncode}: {self.last_words()}")
        connection = Connection.read(self.home)
        if connection is None or connection.pid != self.pid:
            return False
        if self._client is None:
            self._client = self.new_client(tries=400)
        return self._client.ready()["ready"]

    def last_words(self) -> str:
        """The end of what the service said."""
        log = self.home / "service.log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else ""


def driver_of(job_id: str) -> Process | None:
    """The live driver process of a job."""
    for process, argv in command_lines():
        if len(argv) >= 5 and argv[1:4] == ["-m", "service.driver", job_id]:
            return process
    return None


def command_lines() -> Iterator[tuple[Process, list[str]]]:
    """Every live process with its arguments."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (process := Process.of(int(entry.name))) is not None:
            try:
                argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:  # it has just ended
                continue
            yield process, argv[:-1]


def processes_in(home: Path) -> list[str]:
    """Command lines of live processes that know this folder, by environment or arguments."""
    told = str(home).encode()
    return [
        " ".join(argv)
        for process, argv in command_lines()
        if process.pid != os.getpid() and (told in _environ(process.pid) or str(home) in " ".join(argv))
    ]


def wait_until(claim: Callable[[], Any], *, seconds: float, what: str, pause: float = 0.2) -> Any:
    """Looks until `claim` holds and returns what it said.  Overdue."""
    deadline = time.monotonic() + seconds
    while not (found := claim()):
        if time.monotonic() > deadline:
            raise Overdue(f"not within {seconds:.0f} s: {what}")
        time.sleep(pause)
    return found


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def serving(home: Path, settings: Mapping[str, str]) -> Iterator[Service]:
    """A service that is up inside and gone afterwards."""
    service = Service(home, settings)
    try:
        service.start()
        yield service
    finally:
        service.end()


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
