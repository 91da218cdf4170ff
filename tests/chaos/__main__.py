"""`python -m tests.chaos`: harms real jobs on a real Ray and tells what came of it.

Each fault strikes `--count` times, in turn where rows are in SQLite and files in a folder, and where rows are in
PostgreSQL and files in S3.  Exit status 1: something did not survive.
"""

import argparse
import itertools
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from tests.chaos.faults import FAULTS, Fault
from tests.chaos.oracle import left_on_ray
from tests.chaos.soak import soak
from tests.chaos.trials import Row, Undisturbed, trial
from tests.chaos.world import World

PLACES = ("sqlite/folder", "postgresql/s3")
console = Console(width=140, highlight=False)


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    began = time.monotonic()
    rows = {fault.name: Row(fault.name) for fault in options.faults}
    undisturbed = Undisturbed()
    places = [place.partition("/") for place in options.places.split(",")]
    for is_cluster, (number, (database, _, storage)) in itertools.product((False, True), enumerate(places)):
        with _told(World(database, storage, is_cluster), rows) as world:
            for fault in [fault for fault in options.faults if fault.cluster == is_cluster]:
                for turn in range(number, fault.times(options.count), len(places)):
                    _tell(world, _one(world, fault, turn, undisturbed, options.seed), rows)
    if options.soak:
        database, _, storage = places[0]
        # one device worker for each of the two jobs that run at the same time: as many as there are CPUs
        with _told(World(database, storage, settings={"max_device_workers": "1"}), rows) as world:
            world.open()
            _tell(world, soak(world.service, world.files, options.soak), rows)
    console.print(_table(list(rows.values())))
    console.print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    return 0 if all(row.holds for row in rows.values()) else 1


def _one(world: World, fault: Fault, turn: int, undisturbed: Undisturbed, seed: int) -> Row:
    """One trial; a world in which something went wrong is not used again."""
    row = trial(fault, turn, world, undisturbed, random.Random(f"{seed}/{fault.name}/{turn}"))
    if not row.holds:
        row.complaints += [*world.close(keep=True), f"see {world.home}"]
    return row


@contextmanager
def _told(world: World, rows: dict[str, Row]) -> Iterator[World]:
    """A world that is closed in the end, and what was left of it then."""
    try:
        yield world
        was_open = world.is_open
        left = left_on_ray(world.service) if was_open else []
    finally:
        left_alive = world.close()
    if was_open:
        left += left_alive
        _tell(world, Row("nothing left in the end", 1, int(not left), complaints=left), rows)


def _tell(world: World, row: Row, rows: dict[str, Row]) -> None:
    times = ", ".join(f"{seconds:.1f} s" for seconds in row.recoveries)
    console.print(f"{'ok  ' if row.holds else 'FAIL'} {row.fault} ({world}) {times}")
    for complaint in row.complaints:
        console.print(f"     {complaint}", markup=False)
    rows.setdefault(row.fault, Row(row.fault)).add(row)


def _table(rows: list[Row]) -> Table:
    table = Table("fault", "injected", "survived", "worst recovery")
    for row in rows:
        worst = f"{max(row.recoveries):.1f} s" if row.recoveries else ""
        table.add_row(row.fault, str(row.injected), str(row.survived), worst)
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--count", type=int, default=5, help="how often each fault strikes (default: 5)")
    parser.add_argument("--soak", type=int, default=100, help="jobs of the soak; 0: none (default: 100)")
    parser.add_argument(
        "--places", default=",".join(PLACES), help=f"DATABASE/STORAGE,... (default: {','.join(PLACES)})"
    )
    parser.add_argument("--only", default="", help="names of faults, or parts of them, separated by commas; no soak")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which faults strike (default: 0)")
    options = parser.parse_args()
    parts = [part.strip() for part in options.only.split(",")]
    options.faults = [fault for fault in FAULTS if any(part in fault.name for part in parts)]
    if options.only:
        options.soak = 0
    return options


if __name__ == "__main__":
    sys.exit(main())
