"""How long a posted job waits for its first training step, on a service whose Ray is warm.

    python -m bench.start [--rounds 3]

Starts a service of its own, posts the demo job once to warm everything up, then posts it again and stops the clock
at the first reported step of the shared prompt; the job is cancelled then.
"""

import argparse
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
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "service.cli", "--home", home, "up", "--port", "0", "--until-stdin-closes"]
        service = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert service.stdin is not None and service.stdout is not None
            next(line for line in service.stdout if line.startswith("Ctrl-C stops it"))
            connection = Connection.read(Path(home))
            assert connection is not None
            with Cohort(connection.url, connection.key) as client:
                seconds = [_first_step(client) for _ in range(rounds + 1)][1:]
        finally:
            service.communicate()
    print(f"POST to first training step: {', '.join(f'{value:.1f} s' for value in seconds)} (target: at most 15 s)")
    figures = {"seconds": [round(value, 2) for value in seconds], "median": round(statistics.median(seconds), 2)}
    write_record("start", f"python -m bench.start --rounds {rounds}", figures)


def _first_step(client: Cohort) -> float:
    started = time.monotonic()
    job = client.submit(SPEC).id
    while not any(group.step > 0 for group in client.groups(job).groups):
        time.sleep(LOOK_SECONDS)
    seconds = time.monotonic() - started
    client.cancel(job)
    client.wait(job)
    return seconds


if __name__ == "__main__":
    main()
