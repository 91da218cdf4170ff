"""A real service: `cohort up` in a process of its own, with its own Ray, database and folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.client import Cohort
from service.connection import Connection

START_SECONDS = 90


class Service:
    """A running `cohort up`."""

    def __init__(self, home: Path, data_root: Path):
        self.home = home
        command = [sys.executable, "-m", "service.cli", "--home", str(home), "up", "--port", "0", "--data-root"]
        self.process = subprocess.Popen(
            [*command, str(data_root)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.connection = self._wait()
        self.client = Cohort(self.connection.url, self.connection.key)

    def _wait(self) -> Connection:
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C stops it"):
                connection = Connection.read(self.home)
                assert connection is not None
                return connection
        raise AssertionError("the service ended before it served:\n" + "".join(lines))

    def kill(self) -> None:
        """As `kill -9`: nothing is cleaned up."""
        self.client.close()
        self.process.kill()
        self._end()

    def stop(self) -> int:
        """As Ctrl-C; returns the exit status."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self._end()

    def _end(self) -> int:
        self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """`serve(data_root, name="home")` starts a service; all are stopped in the end."""
    started: list[Service] = []

    def start(data_root: Path, name: str = "home") -> Service:
        started.append(Service(tmp_path / name, data_root))
        return started[-1]

    yield start
    for service in started:
        if service.process.poll() is None:
            service.stop()


def processes_of(home: Path) -> list[str]:
    """Command lines of live processes that know this home folder, by environment or arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            state = (entry / "stat").read_text().rsplit(") ", 1)[1][0]
            told = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if state != "Z" and str(home).encode() in told:
            found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def wait_until(claim: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Looks five times a second until `claim` holds."""
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)
