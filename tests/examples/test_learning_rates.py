"""The sweep of learning rates is one of the demo benchmark's methods, on draws of its own."""

import json
from pathlib import Path

from service.benchmark_spec import BenchSpec, parse_bench

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "examples" / "benchmarks"
SCORES: dict[str, dict[str, dict[str, float]]] = json.loads(
    (ROOT / "bench" / "results" / "demo-methods" / "lr-sweep.json").read_text()
)["scores"]
"""Method -> sharing -> learning rate -> score."""


def read(name: str) -> BenchSpec:
    return parse_bench((BENCHMARKS / name).read_bytes())


def test_the_sweep_trains_the_benchmarks_methods_as_the_benchmark_does():
    def settings(spec: BenchSpec) -> set[str]:
        return {
            found.method.model_dump_json() + found.training.model_copy(update={"lr": None}).model_dump_json()
            for found in spec.contestants()
        }

    assert settings(read("demo_lr.yaml")) <= settings(read("demo.yaml"))


def test_the_sweep_sees_none_of_the_benchmarks_draws():
    sweep, bench = read("demo_lr.yaml"), read("demo.yaml")
    assert not set(sweep.seeds) & set(bench.seeds)
    assert {task.name: task for task in sweep.tasks}.items() <= {task.name: task for task in bench.tasks}.items()


def test_the_record_of_the_sweep_holds_nothing_else():
    held = {f"{label} {lr} {mode}" for label, modes in SCORES.items() for mode in modes for lr in modes[mode]}
    assert held <= {f"{found.label} {found.sharing}" for found in read("demo_lr.yaml").contestants()}
