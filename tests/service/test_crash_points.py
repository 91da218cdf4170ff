"""A process may die at every named point, whichever process that is, and the job ends as if nothing had happened."""

import ast
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, delete
from sqlalchemy.schema import CreateSchema, DropSchema

from service.crash_points import COORDINATOR, CRASH_POINTS, DRIVER, RETRY
from service.tables import metadata
from tests.service.crash_harness import RECOVERY_SECONDS, SCENARIOS, Ending, Installation, Scenario
from workers import faults
from workers.storage import WRITES

SEEDS = int(os.environ.get("COHORT_TEST_CRASH_SEEDS", "10"))
DATABASES = ("memory", "memory", "memory", "memory", "memory", "memory", "file", "file", "postgresql", "postgresql")


class Undisturbed:
    """What a scenario comes to when nothing goes wrong, and which points it passes how often."""

    def __init__(self, scenario: Scenario, root: Path) -> None:
        home = Installation("sqlite://", root)
        job, self.seconds = home.run(scenario, "nowhere:crash", random.Random(0))
        self.scenario = scenario
        self.passed = {name: times for name, times in home.passed.items() if name in CRASH_POINTS}
        self.ending = Ending.of(home.store, home.files(job.id), job)
        assert home.complaints(scenario, job, self.ending) == []
        home.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Undisturbed]:
    return [Undisturbed(scenario, tmp_path_factory.mktemp(scenario.name)) for scenario in SCENARIOS]


@pytest.fixture(scope="module")
def postgres_schema(postgres: str) -> Iterator[str]:
    """One schema for all: the tables are emptied between runs."""
    engine = create_engine(postgres)
    with engine.begin() as connection:
        connection.execute(CreateSchema("crashes"))
    yield f"{postgres}&options=-csearch_path%3Dcrashes"
    with engine.begin() as connection:
        connection.execute(DropSchema("crashes", cascade=True))
    engine.dispose()


def test_every_point_is_passed_by_some_scenario(undisturbed: list[Undisturbed]) -> None:
    passed = set().union(*(each.passed for each in undisturbed))
    assert set(CRASH_POINTS) - passed - _AFTER_A_DEATH == set()


def test_every_point_in_the_code_is_listed() -> None:
    """Commits are checked by the store itself, whenever one is made."""
    root, found = Path(__file__).parents[2], set()
    for path in (path for room in ("api", "grouping", "service", "workers") for path in (root / room).rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("faults.point"):
                name = call.args[0]
                parts = name.values if isinstance(name, ast.JoinedStr) else [name]
                found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts))
    made = {"store.{}.commits", "store.{}.committed", "write.{}", "migrate.{}"}
    assert found == {*COORDINATOR, *DRIVER, *RETRY, *_WORKERS, "write.log", "write.pack"} | made
    assert {"write.log", "write.pack"} <= set(WRITES)


_WORKERS = {"train.step", "fake.step"}
"""A worker's death is no process's of these."""
_AFTER_A_DEATH = {"coordinator.buries", "coordinator.buried"}
"""Nobody buries a driver that has not died."""


@pytest.mark.slow
@pytest.mark.parametrize("point", CRASH_POINTS)
def test_a_job_survives_a_death_at(
    point: str, undisturbed: list[Undisturbed], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for seed in range(SEEDS):
        rng = random.Random(f"{point} {seed}")
        late = point in _AFTER_A_DEATH
        fit = [each for each in undisturbed if (not each.scenario.deaf if late else point in each.passed)]
        (expected,) = rng.choices(fit, [each.scenario.weight for each in fit])
        if late:
            plan = f"driver.begins:crash,{point}:crash"
        else:
            plan = f"{point}:crash@{rng.randint(1, expected.passed[point])}"
            if seed % 2:  # and somebody else dies on the way
                other = rng.choice([name for name in expected.passed if name != point])
                plan += f",{other}:crash@{rng.randint(1, 2 * expected.passed[other])}"
        root = tmp_path / str(seed)
        urls = {"memory": lambda: "sqlite://", "file": lambda root=root: f"sqlite:///{root / 'cohort.db'}"}
        urls["postgresql"] = lambda: request.getfixturevalue("postgres_schema")
        home = Installation(urls[DATABASES[seed % len(DATABASES)]](), root)
        try:
            job, seconds = home.run(expected.scenario, plan, rng)
            told = home.complaints(expected.scenario, job, expected.ending)
            if point not in home.deaths:
                told.append(f"nobody died at {point}")
            if seconds > expected.seconds + RECOVERY_SECONDS * len(home.deaths):
                told.append(f"{seconds - expected.seconds:.0f} s for {len(home.deaths)} death(s)")
            assert told == [], f"seed {seed}, {expected.scenario.name}, {plan}, {home.deaths}: {told}"
            with home.store.write() as connection:
                for table in reversed(metadata.sorted_tables):
                    connection.execute(delete(table))
        finally:
            home.close()


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    faults.arm("")
