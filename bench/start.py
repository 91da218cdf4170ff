"""How long a posted job waits for its first training step, on a service whose Ray and device workers are warm.

    python -m bench.start [--rounds 3] [--cold]

Starts a service of its own, posts the demo job once to warm everything up, then posts it again and stops the clock
at the first reported step of the shared prompt; the job is cancelled then.  With `--cold` no device worker outlives its
job.  Figures are seconds until the first step: from the POST, and from the beginning of every stage.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.record import write_record
from service.client import Cohort
from service.connection import Connection

SPEC = Path(__file__).parents[1] / "examples" / "demo.yaml"
LOOK_SECONDS = 0.05


def main() -> None:
    """Prints the seconds of every round and writes bench/results/start.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true")
    asked = parser.parse_args()
    rounds, cold = asked.rounds, asked.cold
    environment = os.environ | ({"COHORT_WARM_SECONDS": "0"} if cold else {})
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "service.cli", "--home", home, "up", "--port", "0", "--until-stdin-closes"]
        service = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
        try:
            assert service.stdin is not None and service.stdout is not None
            next(line for line in service.stdout if line.startswith("Ctrl-C stops it"))
            connection = Connection.read(Path(home))
            assert connection is not None
            with Cohort(connection.url, connection.key) as client:
                found = [_first_step(client) for _ in range(rounds + 1)][1:]
        finally:
            service.communicate()
    figures = {name: round(statistics.median(each[name] for each in found), 2) for name in found[0]}
    print(f"{'cold' if cold else 'warm'}, medians of {rounds}: {figures} (targets, warm: POST 6 s, PROFILING 2 s)")
    suffix = " --cold" if cold else ""
    write_record(f"start{suffix.replace(' --', '_')}", f"python -m bench.start --rounds {rounds}{suffix}", figures)


def _first_step(client: Cohort) -> dict[str, float]:
    """Seconds from the POST, and from every stage on the way, until the first step."""
    posted = time.time()
    job = client.submit(SPEC).id
    while not any(group.step > 0 for group in client.groups(job).groups):
        time.sleep(LOOK_SECONDS)
    ended = time.time()
    begun = {event.data["to"]: event.created_at.timestamp() for event in client.events(job) if event.kind == "state"}
    client.cancel(job)
    client.wait(job)
    return {"POST": ended - posted} | {stage: ended - at for stage, at in begun.items()}


if __name__ == "__main__":
    main()
