"""Machines that are none: processes in namespaces of their own, each with a name, an address, all ports free, its own
`/tmp` and its own changes to the files.  So the commands of compose and Kubernetes run here as they are written.

A machine sees the files of this machine, or those of an image, and changes none of them.  Needs root.
"""

import contextlib
import ctypes
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("ip", "unshare", "nsenter", "chroot", "mount")
_REAPER = ["sh", "-c", "while :; do sleep 5; done"]
"""First process of a machine: ends nothing, and takes in what others leave behind."""


def why_not() -> str | None:
    """What is missing to make machines here; None: nothing."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not found"
    if os.geteuid() != 0:
        return "network namespaces need root"
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-ec", _mounting("/", folder)])
    return f"no namespaces, or no overlay file system ({tried.returncode})" if tried.returncode else None


class Network:
    """Machines that know each other by name, and nobody else."""

    def __init__(self, folder: Path) -> None:
        """`folder`: for the machines' logs."""
        self.folder = folder
        self._switch = _Namespace(["--net"])
        self._switch.run(["ip", "link", "add", "switch", "type", "bridge"])
        self._switch.run(["ip", "link", "set", "switch", "up"])
        self.machines: dict[str, Machine] = {}

    def add(
        self, name: str, *, lower: Path = Path("/"), user: int = 0, shared: Mapping[str, Path] | None = None
    ) -> "Machine":
        """
        Args:
            lower: the files that it begins with: this machine's, or those of an image.
            user: as whom commands run.
            shared: path in the machine -> a folder of ours.
        """
        number = len(self.machines) + 1
        machine = Machine(name, f"10.99.0.{number}", self.folder / name, lower, user, dict(shared or {}))
        end = f"port{number}"
        link = ["ip", "link", "add", end, "netns", str(self._switch.pid), "type", "veth"]
        subprocess.run([*link, "peer", "name", "eth0", "netns", str(machine.namespace.pid)], check=True)
        self._switch.run(["ip", "link", "set", end, "master", "switch", "up"])
        machine.namespace.run(["ip", "address", "add", f"{machine.address}/24", "dev", "eth0"])
        for device in ("lo", "eth0"):
            machine.namespace.run(["ip", "link", "set", device, "up"])
        # leads nowhere, but Ray takes the address of the way out for its own
        machine.namespace.run(["ip", "route", "add", "default", "dev", "eth0"])
        self.machines[name] = machine
        lines = ["127.0.0.1 localhost", *(f"{each.address} {each.name}" for each in self.machines.values())]
        for each in self.machines.values():
            each.write("/etc/hosts", "\n".join(lines) + "\n")
        return machine

    def close(self) -> None:
        """Ends every process on every machine."""
        for machine in self.machines.values():
            machine.close()
        self._switch.close()


class Machine:
    """One of them, with root folder, processes and network of its own."""

    def __init__(self, name: str, address: str, folder: Path, lower: Path, user: int, shared: dict[str, Path]) -> None:
        self.name, self.address, self._folder, self._user = name, address, folder, user
        self.namespace = _Namespace(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        self._folder.mkdir(parents=True)
        self._started: list[subprocess.Popen[bytes]] = []
        self._root = f"{self._folder}/root"
        self.namespace.run(["sh", "-ec", _mounting(str(lower), str(self._folder))])
        self.write("/etc/hostname", f"{name}\n")
        self.write("/etc/resolv.conf", "nameserver 127.0.0.1\n")  # refuses at once: all names are in /etc/hosts
        if lower == Path("/"):  # it may be on another disk than the root folder
            shared = {str(ROOT): ROOT, **shared}
        for place, ours in shared.items():
            there = f"{self._root}{place}"
            self.namespace.run(["sh", "-ec", f"mkdir -p '{there}'; mount --bind '{ours}' '{there}'"])

    def write(self, path: str, text: str) -> None:
        """A file on this machine."""
        self.namespace.run(["sh", "-c", f"cat > {self._root}{path}"], input=text)

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Runs a command as a container does: as the first of its processes, which end with it, and again whenever it
        ends; what it says goes to `log`."""
        inside = f"mount -t proc proc {self._root}/proc; exec {shlex.join(self._inside(command, environment))}"
        contained = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", inside]
        again = ["sh", "-c", 'while :; do "$@"; sleep 1; done', "container", *contained]
        with self.log.open("ab") as log:
            started = subprocess.Popen(
                [*self.namespace.enter, *again], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self._started.append(started)

    def close(self) -> None:
        """Ends every process on it."""
        self.namespace.close()
        for started in self._started:
            started.wait()

    def run(
        self, command: Sequence[str], environment: Mapping[str, str], *, seconds: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        whole = [*self.namespace.enter, *self._inside(command, environment)]
        return subprocess.run(whole, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)

    @property
    def log(self) -> Path:
        return self._folder / "log"

    def _inside(self, command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        named = [f"{name}={value}" for name, value in environment.items()]
        return ["chroot", f"--userspec={self._user}:{self._user}", self._root, "env", "-i", *named, *command]


class _Namespace:
    """Namespaces that live as long as their first process."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self._has_processes = "--pid" in kinds
        self._holder = subprocess.Popen(["unshare", *kinds, *_REAPER], preexec_fn=_die_with_parent)
        self.pid = self._holder.pid
        if self._has_processes:  # the first process within is a child of ours
            self.pid = _child_of(self._holder.pid)
        self._await()

    @property
    def enter(self) -> list[str]:
        processes = ["--mount", "--pid"] if self._has_processes else []
        return ["nsenter", f"--target={self.pid}", "--net", *processes]

    def run(self, command: Sequence[str], *, input: str | None = None) -> None:
        done = subprocess.run([*self.enter, *command], input=input, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()

    def _await(self) -> None:
        """Until it has left the namespaces of this process."""
        ours = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{self.pid}/ns/net") == ours:
            assert self._holder.poll() is None, "unshare failed"


def _child_of(pid: int) -> int:
    while True:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, 9)


def _mounting(lower: str, folder: str) -> str:
    """Makes `folder/root`: all files of `lower`, and changes that live in memory."""
    return "; ".join(
        (
            "mount --make-rprivate /",
            f"mkdir -p {folder}/memory {folder}/root",
            f"mount -t tmpfs tmpfs {folder}/memory",
            f"mkdir {folder}/memory/upper {folder}/memory/work",
            f"mount -t overlay overlay -o lowerdir={lower},upperdir={folder}/memory/upper,workdir={folder}/memory/work "
            f"{folder}/root",
            f"cd {folder}/root",
            "mount -t proc proc proc",
            "mount --rbind /dev dev",
            "mount --make-rslave dev",
            "mount -t tmpfs -o size=2g,mode=1777 tmpfs dev/shm",
            "mount -t tmpfs -o mode=1777 tmpfs tmp",
            "mkdir -p var/lib/cohort srv/cohort",
            "chmod 777 var/lib/cohort",
        )
    )


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network that is gone afterwards, with all that ran on it."""
    with tempfile.TemporaryDirectory(prefix="cohort-net-") as folder:
        made = Network(Path(folder))
        try:
            yield made
        finally:
            made.close()
            for log in sorted(Path(folder).glob("*/log")):
                sys.stdout.write(f"--- {log.parent.name}\n{log.read_text(errors='replace')[-3000:]}\n")
