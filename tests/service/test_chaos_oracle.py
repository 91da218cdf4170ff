"""The judge of `make chaos`: what it lets pass, and what it does not."""

from datetime import UTC, datetime
from typing import Any

import pytest

from service.spec import parse_spec
from service.states import JobState
from service.wire import Event
from tests.chaos.jobs import Outcome, tiny, two_groups, two_ranks
from tests.chaos.oracle import of_events

WHOLE = ("QUEUED", "STARTING", "VALIDATING", "QUEUED", "STARTING", "VALIDATING", "GROUPING", "TRAINING")


def told(*states: str) -> list[Event]:
    """The events of a job that walked through these states."""
    events = []
    attempt = 0
    for seq, (before, after) in enumerate(zip((None, *states), states, strict=False), start=1):
        attempt += after == "STARTING"
        data: dict[str, Any] = {"to": after} if before is None else {"from": before, "to": after}
        fields = {"seq": seq, "kind": "state", "message": "", "level": "info", "data": data, "attempt": attempt}
        events.append(Event(**fields, created_at=datetime.now(UTC)))
    return events


def test_a_life_by_the_table_is_no_fault() -> None:
    assert of_events(told(*WHOLE), JobState.TRAINING) == []


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda events: events[:2] + events[3:], "numbered"),
        (lambda events: [*events, events[-1]], "numbered"),
        (lambda events: told("QUEUED", "STARTING", "TRAINING"), "moves STARTING -> TRAINING"),
        (lambda events: events[:4], "events end in QUEUED"),
        (lambda events: [*events[:-1], events[-1].model_copy(update={"attempt": 1})], "older attempt"),
        (lambda events: [], "accepted"),
    ],
)
def test_a_lost_a_doubled_a_forbidden_and_a_late_event_are_faults(break_it: Any, complaint: str) -> None:
    assert complaint in " ".join(of_events(break_it(told(*WHOLE)), JobState.TRAINING))


def test_outcomes_differ_by_any_weight_similarity_or_score() -> None:
    outcome = Outcome({"groups/g1/learned.safetensors": "00"}, "[[1.0]]", {"art": 0.5})
    assert outcome.differences(outcome) == []
    for other in (
        Outcome({"groups/g1/learned.safetensors": "01"}, "[[1.0]]", {"art": 0.5}),
        Outcome({}, "[[1.0]]", {"art": 0.5}),
        Outcome(outcome.weights, "[[0.9]]", {"art": 0.5}),
        Outcome(outcome.weights, "[[1.0]]", {"art": 0.4}),
    ):
        assert len(outcome.differences(other)) == 1


@pytest.mark.parametrize("spec", [two_groups(), two_ranks(), tiny("tiny-1")])
def test_its_jobs_are_jobs(spec: dict[str, Any]) -> None:
    assert parse_spec(spec).name == spec["name"]
