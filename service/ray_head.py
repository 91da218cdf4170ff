"""A Ray head of our own: started, found again after a crash, and ended without touching any other Ray on the machine.

Every port is its own, so is the temp dir, and so is the token.  `ray start --head --block` runs in a session of its
own and outlives a control plane that was killed; `home/ray_head.json` says how to find it again.  All its processes,
drivers and workers included, carry a mark in their environment, and a clean stop ends exactly those: never `ray stop`,
which would end every Ray on the host.
"""

import hashlib
import importlib.util
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from service.errors import HeadFailed
from service.private_files import private_secret, write_private
from service.processes import Process, end, marked, wait_until_gone
from service.settings import Settings, child_environment

log = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parent.parent
_OBJECT_STORE_BYTES = 512 * 2**20  # tensors travel as files; Ray's default would claim a third of the memory
_START_SECONDS = 60.0
_TRIES = 3  # a port may be taken between our look and Ray's


class RayHead:
    """The embedded head of one home folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.home = settings.home
        self._record_file = settings.home / "ray_head.json"
        self._token_file = settings.home / "ray_token"
        place = hashlib.sha256(str(settings.home).encode()).hexdigest()[:8]
        # Ray puts unix sockets below it, whose paths may have 107 characters: too few for many a home.
        self.temp_dir = Path(f"/tmp/cohort-{os.getuid()}-{place}")
        self._block: subprocess.Popen[bytes] | None = None  # kept, so that its end is noticed (no zombie)
        self.address = ""
        """The Jobs API, once started."""

    @property
    def token(self) -> str:
        """The secret that this head asks for; made once per home, readable by its owner alone."""
        return private_secret(self._token_file)

    @property
    def mark(self) -> str:
        """What every process of the recorded head has in its environment (`NAME=value`); empty: there is no head."""
        return self._record().get("mark", "")

    def start(self, answers: Callable[[str], bool], *, give_up: Callable[[], bool] = lambda: False) -> bool:
        """Starts a head, or adopts the recorded one if it is alive.  True: adopted, with the jobs that run on it.

        Args:
            answers: whether the Jobs API at an address answers.
            give_up: asked while waiting; once it is true, HeadFailed, and nothing is left running.
        """
        if self._adopt(answers):
            return True
        self._sweep(seconds=3.0)
        for attempt in range(1, _TRIES + 1):
            if self._try(answers, give_up):
                return False
            if give_up():
                self._sweep(seconds=1.0)
                raise HeadFailed("The start of the Ray head was given up because the service stops.")
            log.warning("the Ray head did not start (try %d of %d)", attempt, _TRIES)
            self._sweep(seconds=1.0)
        raise HeadFailed(
            f"The Ray head did not start within {_START_SECONDS:.0f} s, {_TRIES} times. The end of its log:\n"
            f"{self._log_tail()}\nSee {self._log_file}, or set COHORT_RAY_ADDRESS to a Ray that runs already."
        )

    def alive_at(self) -> str:
        """Where the recorded head's Jobs API is, whoever started it; empty: none runs."""
        return self._record()["address"] if self.is_running() else ""

    def is_running(self) -> bool:
        """Whether the head's first process is alive."""
        if self._block is not None:
            self._block.poll()
        record = self._record()
        return bool(record.get("pid")) and Process(record["pid"], record["started"]).is_alive()

    def stop(self) -> None:
        """Ends the head and all that runs on it; afterwards no process and no temp file of it is left."""
        record = self._record()
        if record.get("pid"):
            # Its own handler takes the rest down in order; what is left after that is ended one by one.
            first = Process(record["pid"], record["started"])
            first.send(signal.SIGTERM)
            wait_until_gone({first}, seconds=4.0)
        self._sweep(seconds=1.0)
        if self._block is not None:
            self._block.wait(timeout=5)
            self._block = None

    def _adopt(self, answers: Callable[[str], bool]) -> bool:
        record = self._record()
        if not self.is_running():
            return False
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            if answers(record["address"]):
                self.address = record["address"]
                log.info("adopted the Ray head that runs at %s", self.address)
                return True
            time.sleep(0.25)
        log.warning("the Ray head at %s is alive but does not answer; it is replaced", record["address"])
        return False

    def _try(self, answers: Callable[[str], bool], give_up: Callable[[], bool]) -> bool:
        self._make_temp_dir()
        gcs, dashboard, client, agent = _free_ports(4)
        address = f"http://127.0.0.1:{dashboard}"
        record = {"mark": f"COHORT_HEAD={secrets.token_hex(16)}", "address": address, "temp_dir": str(self.temp_dir)}
        self._write(record)  # before the start, so that even a crash in between leaves no stranger behind
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
        command += [f"--port={gcs}", f"--temp-dir={self.temp_dir}"]
        command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        command += [f"--dashboard-agent-listen-port={agent}", "--min-worker-port=0", "--max-worker-port=0"]
        command += [f"--object-store-memory={_OBJECT_STORE_BYTES}"]
        if importlib.util.find_spec("grpc") is not None:  # the client server cannot be switched off, only moved
            command.append(f"--ray-client-server-port={client}")
        if self._settings.num_cpus is not None:
            command.append(f"--num-cpus={self._settings.num_cpus}")
        with self._log_file.open("wb") as output:
            self._block = subprocess.Popen(
                command,
                env=self._environment(record["mark"]),
                cwd=self.temp_dir,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        first = Process.of(self._block.pid)
        if first is None:
            return False
        self._write(record | {"pid": first.pid, "started": first.started})
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._block.poll() is None and not give_up():
            if answers(address):
                self.address = address
                return True
            time.sleep(0.1)
        return False

    def _environment(self, mark: str) -> dict[str, str]:
        """What the head and, through it, every driver and worker finds: no credentials, only where to read them."""
        name, value = mark.split("=")
        return child_environment() | {
            name: value,
            "COHORT_HOME": str(self._settings.home),
            "COHORT_SETTINGS_FILE": str(self._settings.running_file),
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [child_environment().get("PYTHONPATH")])]),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",
            "RAY_JOB_STOP_WAIT_TIME_S": "5",
            **({"RAY_LOGGING_CONFIG_ENCODING": "JSON"} if self._settings.log_format == "json" else {}),
            "SPT_NOENV": "1",  # Ray renames its processes; without this the new title overwrites the mark
        }

    def _make_temp_dir(self) -> None:
        _ = self.token
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        self.temp_dir.mkdir(mode=0o700, exist_ok=True)
        status = self.temp_dir.lstat()
        if self.temp_dir.is_symlink() or status.st_uid != os.getuid():
            raise HeadFailed(f"{self.temp_dir} belongs to somebody else. Remove it, or use another COHORT_HOME.")
        self.temp_dir.chmod(0o700)

    def _sweep(self, *, seconds: float) -> None:
        """Ends whatever is left of the recorded head and removes its traces (its log stays)."""
        mark = self.mark
        if mark:
            end(marked(mark), seconds=seconds)
            end(marked(mark), seconds=0.0)  # what was born while the others died
        if self.temp_dir.is_dir() and not self.temp_dir.is_symlink():
            shutil.rmtree(self.temp_dir)
        self._record_file.unlink(missing_ok=True)

    def _record(self) -> dict:
        return json.loads(self._record_file.read_text()) if self._record_file.exists() else {}

    def _write(self, record: dict) -> None:
        write_private(self._record_file, json.dumps(record))

    @property
    def _log_file(self) -> Path:
        return self._settings.home / "ray_head.log"

    def _log_tail(self) -> str:
        return self._log_file.read_text(errors="replace")[-2000:] if self._log_file.exists() else "(no log)"


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
