"""A cluster that grows by Ray's own autoscaler: machines with GPUs come for the passes of a job that can use them.

Run as a program (`FOLDER WORKS`) it is the cluster, whose machines are processes here, and a driver of these
works (pickled); it prints what GPUs there were at the beginning and in the end.  They need not be real: nobody looks
before a work begins.
"""

import json
import os
import pickle
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service.processes import end, marked
from service.settings import child_environment
from tests.chaos.service import ROOT, free_port
from workers.launching.work import PassWork

SECONDS = 120.0
MAX_GPUS = 2


@pytest.mark.ray
def test_machines_with_gpus_come_for_works_that_wait(make_pass: Callable[..., PassWork], tmp_path: Path) -> None:
    works = [make_pass({f"g{number}": ("art",)}, job=f"job-{number}") for number in range(MAX_GPUS)]
    (tmp_path / "works").write_bytes(pickle.dumps(works))
    mark = secrets.token_hex(16)
    environment = child_environment() | {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "COHORT_TEST": mark,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "SPT_NOENV": "1",
    }
    with tempfile.TemporaryDirectory(prefix="grows-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        try:
            command = [sys.executable, __file__, folder, str(tmp_path / "works")]
            run = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=250)
        finally:
            end(marked(f"COHORT_TEST={mark}"), seconds=0.0)
    told = json.loads(run.stdout.splitlines()[-1])
    assert told == {"capacity": MAX_GPUS, "before": 0, "after": MAX_GPUS}


def main(folder: str, works: str) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from workers.launching.ray_group import NAMESPACE
    from workers.launching.ray_launcher import RayLauncher

    port = free_port()
    scaling = Path(folder, "scaling.yaml")
    scaling.write_text(json.dumps(_scaling(f"127.0.0.1:{port}")))
    head = {"num_cpus": 0, "gcs_server_port": port, "temp_dir": folder, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head | {"autoscaling_config": str(scaling)})
    ray.init(address=cluster.address, namespace=NAMESPACE)

    def gpus() -> float:
        return ray.cluster_resources().get("GPU", 0)

    launcher = RayLauncher(max_gpus=MAX_GPUS)
    told = {"capacity": launcher.capacity(), "before": gpus()}
    given = pickle.loads(Path(works).read_bytes())[: launcher.capacity()]  # as many as a job's driver begins
    running = [launcher.start(work) for work in given]
    deadline = time.monotonic() + SECONDS
    while gpus() < MAX_GPUS and time.monotonic() < deadline:
        launcher.wait(running, 0.5)
    sys.stdout.write(json.dumps(told | {"after": gpus()}))
    sys.stdout.flush()
    os._exit(0)  # the processes of the cluster are ended from outside


def _scaling(gcs: str) -> dict:
    """What Ray's autoscaler is told: up to four machines of a GPU each, which are processes of this machine."""
    lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    lists += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude")
    return {key: [] for key in (*lists, "rsync_filter")} | {
        "cluster_name": "growing",
        "provider": {
            "type": "fake_multinode",
            "gcs_address": gcs,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "max_workers": 4,
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 10,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 4},
        },
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
