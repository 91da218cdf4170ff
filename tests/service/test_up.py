"""`cohort up` as a process of its own, with a real Ray: it starts, says where it is, and leaves nothing behind."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.client import Cohort
from service.connection import Connection
from service.ray_head import RayHead
from service.settings import Settings

pytestmark = pytest.mark.ray


def start(home: Path) -> tuple["subprocess.Popen[str]", Connection]:
    """The process, once it has said that it answers."""
    command = [sys.executable, "-m", "service.cli", "--home", str(home), "up", "--port", "0", "--until-stdin-closes"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("Ctrl-C"):
            break
    connection = Connection.read(home)
    assert connection is not None, "".join(said)
    assert any(connection.url in line for line in said)
    return process, connection


@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM", "parent died"])
def test_the_service_ends_cleanly_however_it_is_asked_to(tmp_path: Path, end: str) -> None:
    home = tmp_path / "home"
    process, connection = start(home)
    with process:
        try:
            assert process.stdin is not None
            with Cohort(connection.url, connection.key) as client:
                assert client.ready() == {"ready": True, "checks": {"database": True, "storage": True, "ray": True}}
                assert list(client.jobs()) == []
            if end == "parent died":
                process.stdin.close()
            else:
                process.send_signal(getattr(signal, end))
            assert process.wait(timeout=40) == 0
        finally:
            process.kill()
    head = RayHead(Settings.load(home=home))
    assert not head.is_running()
    assert not head.temp_dir.exists()


def test_two_services_do_not_share_a_home_and_the_second_says_why(tmp_path: Path) -> None:
    home = tmp_path / "home"
    process, _ = start(home)
    with process:
        try:
            second = [sys.executable, "-m", "service.cli", "--home", str(home), "up", "--port", "0"]
            refused = subprocess.run(second, capture_output=True, text=True, timeout=40)
            assert refused.returncode == 1
            assert "Another control plane" in refused.stderr
            assert "Traceback" not in refused.stderr
            process.terminate()
            assert process.wait(timeout=40) == 0
        finally:
            process.kill()
