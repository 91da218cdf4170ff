"""How well longest-first dispatch uses a fleet: thousands of groups, a thousand devices, failures and stragglers.

    python -m bench.schedule [--groups 20000] [--devices 1000]

An event simulation of the driver: the order comes from the launcher's own packing (`workers.launching.packing`), and a
device takes the next group when it is free.  Costs are log-normal.  A straggler is a device that runs slower than the
others; a failure ends a group part of the way and sends it back to the front of the queue.  The bound is the larger of
the mean load of the devices and the longest group, with the work that failures wasted left out.
"""

import argparse
import heapq
from dataclasses import dataclass

import numpy as np

from bench.record import write_record
from workers.launching.packing import Parcel, longest_first, pack


@dataclass(frozen=True)
class World:
    """What may go wrong."""

    failures: float = 0.0
    """Probability that one attempt at a group fails, at a uniform point of its course."""
    stragglers: float = 0.0
    """Share of the devices that are slower."""
    slowness: float = 2.0
    """By how much."""


def makespan(costs: np.ndarray, num_devices: int, world: World, *, seed: int, order: str = "longest first") -> float:
    """Time until the last group is done.  Every group is done exactly once."""
    rng = np.random.default_rng(seed)
    parcels = [Parcel(str(number), float(cost)) for number, cost in enumerate(costs)]
    if order == "longest first":
        # One pass a group, the costliest first: the queue that the driver hands out.
        queue = [members[0] for members in pack(parcels, len(parcels))]
    else:
        queue = [parcels[number] for number in rng.permutation(len(parcels))]
    speed = np.where(rng.random(num_devices) < world.stragglers, world.slowness, 1.0)
    waiting = list(reversed(queue))
    free = [(0.0, device) for device in range(num_devices)]
    heapq.heapify(free)
    done: set[str] = set()
    end, retries = 0.0, []
    while len(done) < len(queue):
        now, device = heapq.heappop(free)
        # A failed group can be taken up from the moment at which it failed.
        if retries and (retries[0][0] <= now or not waiting):
            since, _, parcel = heapq.heappop(retries)
            now = max(now, since)
        elif waiting:
            parcel = waiting.pop()
        else:
            continue  # nothing is left for this device
        took = parcel.cost * speed[device]
        if rng.random() < world.failures:
            failed_at = now + took * rng.random()
            heapq.heappush(retries, (failed_at, parcel.name, parcel))
            heapq.heappush(free, (failed_at, device))
            continue
        done.add(parcel.name)
        end = max(end, now + took)
        heapq.heappush(free, (now + took, device))
    return end


def lower_bound(costs: np.ndarray, num_devices: int) -> float:
    """No schedule on equal devices ends before the mean load or the longest group."""
    return float(max(costs.sum() / num_devices, costs.max()))


def main() -> None:
    """Prints one line a case and writes bench/results/schedule.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=20_000)
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    worlds = {
        "nothing goes wrong": World(),
        "2 % of attempts fail": World(failures=0.02),
        "5 % of devices take twice as long": World(stragglers=0.05),
        "both": World(failures=0.02, stragglers=0.05),
    }
    figures: dict = {"devices": arguments.devices, "makespan_over_bound": {}}
    # With a spread of 1 the longest of all groups is the bound; with 0.5 it is the mean load, which is harder to reach.
    for num_groups, spread in ((5_000, 1.0), (5_000, 0.5), (arguments.groups, 0.5)):
        for name, world in worlds.items():
            for order in ("longest first", "random order"):
                ratios = []
                for seed in range(arguments.seeds):
                    costs = np.random.default_rng(seed).lognormal(0.0, spread, num_groups)
                    span = makespan(costs, arguments.devices, world, seed=seed, order=order)
                    ratios.append(round(float(span / lower_bound(costs, arguments.devices)), 3))
                label = f"{num_groups} groups, spread {spread}, {name}, {order}"
                figures["makespan_over_bound"][label] = ratios
                print(f"{label}: {ratios}")
    costs = np.random.default_rng(0).lognormal(0.0, 0.5, 5_000)
    static = longest_first(costs.tolist(), num_bins=arguments.devices, cost=float)
    ratio = max(sum(members) for members in static) / lower_bound(costs, arguments.devices)
    figures["packed_in_advance_over_bound"] = round(ratio, 3)
    print(f"5000 groups, spread 0.5, packed in advance, nothing goes wrong: {ratio:.3f}")
    write_record(
        "schedule", f"python -m bench.schedule --groups {arguments.groups} --devices {arguments.devices}", figures
    )


if __name__ == "__main__":
    main()
