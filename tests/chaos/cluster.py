"""A Ray cluster of a head without CPUs and worker nodes with one each, on this machine: what a service elsewhere uses.

Run as a program it is the cluster itself, with Ray's own `Cluster`: it obeys one command a line on its standard input
(`lose [ID]`: a node's processes are killed; `preempt SECONDS`: a node is drained with that deadline and then lost;
`add [JSON]`: a node joins, with these arguments; `behead`: the head's processes are killed) and answers `done`.
"""

import json
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from service.processes import end, marked
from service.settings import child_environment
from tests.chaos.service import ROOT, Overdue, free_port, wait_until

NODES = 2
START_SECONDS = 300.0
TRIES = 3


class RayCluster:
    """The cluster of one service, at addresses that stay the same over all its lives."""

    def __init__(self, home: Path, folder: Path) -> None:
        """`home`: of the service whose drivers run here.  `folder`: Ray's files; a short path."""
        self._ports = [str(free_port()) for _ in range(3)]  # of GCS, dashboard and the head's agent, which is asked to
        # start drivers: another Ray's on this machine has Ray's own choice
        self._folder = folder
        self.token = secrets.token_hex(32)
        self.address = f"http://127.0.0.1:{self._ports[1]}"
        token_file = folder / "token"
        token_file.write_text(self.token)
        self._mark = ("COHORT_CHAOS", secrets.token_hex(16))
        self._environment = child_environment() | {
            self._mark[0]: self._mark[1],
            "COHORT_HOME": str(home),
            "COHORT_SETTINGS_FILE": str(home / "running.json"),
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
            "SPT_NOENV": "1",  # Ray renames its processes; without this the new title overwrites the mark
        }
        self._processes: list[subprocess.Popen[str]] = []  # the nodes of a beheaded one live on with it

    @property
    def gcs_address(self) -> str:
        """Where another machine joins."""
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def environment(self) -> dict[str, str]:
        """Of every process of it; `kill` finds them by it."""
        return dict(self._environment)

    @property
    def settings(self) -> dict[str, str]:
        """How a service finds it."""
        return {"ray_address": self.address, "ray_token": self.token}

    def start(self) -> None:
        """Returns once the Jobs API answers and all nodes have joined."""
        for tries_left in reversed(range(TRIES)):
            try:
                self._start()
                return
            except Overdue:  # Ray gives its nodes half a minute, which a busy machine may need for other things
                self.kill()
                if not tries_left:
                    raise

    def _start(self) -> None:
        log = (self._folder / "cluster.log").open("ab")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.cluster", *self._ports, str(self._folder)],
                env=self._environment,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._processes.append(process)
        self._hear("ready")
        wait_until(self._answers, seconds=START_SECONDS, what="the cluster's Jobs API answers")

    def tell(self, command: str) -> None:
        """Gives a command and waits until it is done."""
        stdin = self._processes[-1].stdin
        assert stdin is not None
        stdin.write(f"{command}\n")
        stdin.flush()
        self._hear("done")

    def kill(self) -> None:
        """Every machine of it loses its power at once."""
        end(marked("=".join(self._mark)), seconds=0.0)
        end(marked("=".join(self._mark)), seconds=0.0)  # what was born while the others died
        for process in self._processes:
            with process:  # closes its pipes
                process.wait()
        self._processes = []

    def _hear(self, word: str) -> None:
        stdout = self._processes[-1].stdout
        assert stdout is not None
        for line in stdout:
            if line.strip() == word:
                return
        said = (self._folder / "cluster.log").read_text(errors="replace")[-2000:]
        raise Overdue(f"the cluster ended before it was {word}: {said}")

    def _answers(self) -> bool:
        try:
            headers = {"Authorization": f"Bearer {self.token}"}
            return requests.get(f"{self.address}/api/version", headers=headers, timeout=5).ok
        except requests.RequestException:
            return False


@contextmanager
def clustered(home: Path) -> Iterator[RayCluster]:
    """A cluster that is up inside and gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = RayCluster(home, Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.kill()


def main(gcs_port: int, dashboard_port: int, agent_port: int, folder: str) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "gcs_server_port": gcs_port,
            "dashboard_port": dashboard_port,
            "dashboard_agent_listen_port": agent_port,
            "include_dashboard": True,
            "temp_dir": folder,
        },
    )
    head = cluster.head_node
    assert head is not None
    # where drivers look for their Ray, as `ray start` writes it; without it they take any that this machine runs
    Path(folder, "ray_current_cluster").write_text(str(cluster.address))
    for _ in range(NODES):
        cluster.add_node(num_cpus=1)
    _say("ready")
    for line in sys.stdin:
        command, _, given = line.strip().partition(" ")
        node = next(iter(cluster.worker_nodes), None)
        match command:
            case "add":
                cluster.add_node(**({"num_cpus": 1} | json.loads(given or "{}")))
            case "lose":
                lost = next((each for each in cluster.worker_nodes if each.node_id == given), node)
                cluster.remove_node(lost, allow_graceful=False)
            case "preempt":
                assert node is not None
                drain = ["drain-node", "--address", cluster.address, "--node-id", node.node_id]
                drain += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken back"]
                drain += ["--deadline-remaining-seconds", given]
                subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *drain], check=True, stdout=sys.stderr)
                time.sleep(float(given))
                cluster.remove_node(node, allow_graceful=False)
            case "behead":
                head.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
            case _:
                raise ValueError(f"{line!r}: expected add [JSON], lose [ID], preempt SECONDS or behead.")
        _say("done")


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
