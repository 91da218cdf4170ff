"""The whole API against a machine that has read its description: no error of ours, and every error in our words.

schemathesis makes requests, right ones and wrong ones, from the OpenAPI document, and follows what answers lead to: the
id of a job that was accepted goes into the next request.
"""

import contextlib
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test
from schemathesis.core.result import Ok
from schemathesis.python import asgi

from api.app import create_app
from api.problems import MEDIA_TYPE
from service.roles import Role
from service.store import Store
from service.wire import Problem
from tests.api.conftest import make_control_plane, run_to_the_end

CASES = int(os.environ.get("COHORT_TEST_FUZZ_CASES", "1000"))
STEPS = 25
MAY_BE_AWAY = ("/readyz", "/dashboard/{path}")
"""Paths that hang on a Ray, of which there is none here."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[FastAPI, Store]]:
    """An app with jobs in it; its coordinator does not run, so nothing but requests changes them."""
    control_plane = make_control_plane(tmp_path, requests_per_minute=0)
    for _ in range(2):
        run_to_the_end(control_plane)
    app = create_app(control_plane)
    app.state.closing.set()  # streams and long polls end at once
    yield app, control_plane.store
    control_plane.planner.close()


def test_no_request_is_answered_with_an_error_of_ours_and_every_error_is_a_problem(service) -> None:
    app, store = service
    fuzzer = Fuzzer(app, store)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    with asgi.get_client(app) as client:

        class Machine(schema.as_state_machine()):
            def before_call(self, case: Any) -> None:
                fuzzer.prepare(case)

            def get_call_kwargs(self, case: Any) -> dict[str, Any]:
                return {"session": client}

            def validate_response(self, response: Any, case: Any, **_: Any) -> None:
                fuzzer.judge(response, case)

        round = 0
        while sum(fuzzer.answers.values()) < CASES:  # a service that remembers is not what Hypothesis expects
            machine = seed(round)(Machine)
            with contextlib.suppress(Flaky):
                run_state_machine_as_test(machine, settings=how(max(1, CASES // STEPS), stateful_step_count=STEPS))
            round += 1
        stateful = sum(fuzzer.answers.values())
        for found in schema.get_all_operations():
            assert isinstance(found, Ok), found

            @how(max(5, CASES // 500))
            @given(case=found.ok().as_strategy())
            def alone(case: Any) -> None:
                fuzzer.prepare(case)
                fuzzer.judge(case.call(session=client), case)

            with contextlib.suppress(Flaky):
                alone()
    assert fuzzer.faults == [], "\n\n".join(fuzzer.faults[:5])
    described = {f"{method.upper()} {path}" for path, item in app.openapi()["paths"].items() for method in item}
    assert stateful >= CASES
    assert described <= set(fuzzer.operations)
    good = sum(times for status, times in fuzzer.answers.items() if status < 300)
    assert good > sum(fuzzer.answers.values()) / 5, fuzzer.answers


class Fuzzer:
    """Sends what is found to where it can do something, and judges what comes back."""

    def __init__(self, app: FastAPI, store: Store) -> None:
        self.answers, self.operations = Counter[int](), Counter[str]()
        self._app, self._store = app, store
        self.faults: list[str] = []
        self._rng = random.Random(0)
        self._jobs = [job.id for job in store.list_jobs()[0]]
        self._key = store.create_key("fuzz", role=Role.ADMIN)

    def prepare(self, case: Any) -> None:
        """A good key; and mostly jobs, plans, groups and files that are there, since no guess would find them."""
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {self._key}"}
        if case.path_parameters and self._rng.random() < 0.8:
            self._jobs += [job.id for job in self._store.list_jobs(limit=5)[0] if job.id not in self._jobs]
            there = {"job_id": self._rng.choice(self._jobs), "number": 0, "group": "g1", "path": "bundle/data.txt"}
            known = {name: value for name, value in there.items() if name in case.path_parameters}
            case.path_parameters = {**case.path_parameters, **known}

    def judge(self, response: Any, case: Any) -> None:
        """Keeps what nobody should ever be answered."""
        self.answers[response.status_code] += 1
        self.operations[f"{case.method} {case.operation.path}"] += 1
        if fault := self._fault(response, case):
            self.faults.append(f"{fault}: {case.as_curl_command()}\n{response.status_code} {response.content[:500]!r}")
        if response.status_code == 401:  # it may have revoked its own key
            self._key = self._store.create_key("fuzz", role=Role.ADMIN)

    def _fault(self, response: Any, case: Any) -> str | None:
        path, status = case.operation.path, response.status_code
        if status >= 500 and not (status == 503 and path in MAY_BE_AWAY):
            return "an error of ours"
        if status < 400 or path == "/readyz":
            return None
        if response.headers["content-type"] != [MEDIA_TYPE]:
            return f"an error as {response.headers['content-type']}"
        problem = Problem.model_validate_json(response.content)
        return None if problem.status == status and problem.detail else "a problem that says nothing"


def how(examples: int, **more: Any) -> Any:
    return settings(
        max_examples=examples,
        deadline=None,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        **more,
    )
