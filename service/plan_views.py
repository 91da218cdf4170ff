"""A plan, its review and its trials as the outside sees them: parsed JSON in, `service.wire` messages out.

The API and the report tell a plan in the same messages, so that both say the same.  Plans of older versions lack what
was not measured then: it is left out.
"""

from collections.abc import Mapping
from typing import Any

from grouping.outline import PlanOutline
from grouping.why import conflicting
from service import wire, wire_why
from service.plan_words import agreeing, by_modality, parts_sentence, trend_words

Json = Mapping[str, Any]


def plan_facts(
    outline: PlanOutline, plan: Json, review: Json | None, arbitration: Json | None, *, number: int, approved: bool
) -> wire_why.PlanFacts:
    """How the plan came about, and how sure it is."""
    found = review or {}
    return wire_why.PlanFacts.model_validate(
        {
            "number": number,
            "approved": approved,
            "origin": outline.origin,
            "summary": outline.summary,
            "verdict": plan.get("verdict"),
            "solver": outline.solver,
            "gap": plan.get("gap"),
            "objective": outline.objective,
            "second_opinion": found.get("second_opinion") or plan.get("second_opinion"),
            "reviewed": review is not None,
            "confidence": found.get("confidence"),
            "agreements": found.get("agreements", []),
            "arbitration": arbitration,
        }
    )


def task_reasons(plan: Json, review: Json | None) -> list[wire_why.TaskReason]:
    """Why every task is where it is, in the plan's order."""
    sure = {entry["task"]: entry for entry in (_confidence(review) or {}).get("tasks", [])}
    reasons = []
    for task in plan["tasks"]:
        found = sure.get(task["task"], {})
        more = {"why": _why(task.get("why")), "together": found.get("together")}
        reasons.append(wire_why.TaskReason.model_validate({**task, **more, "together_margin": found.get("margin")}))
    return reasons


def similarity(plan: Json, review: Json | None) -> wire.Similarity:
    """The plan's matrices, and those of its review in the same order of tasks."""
    sure = _confidence(review)
    matrices = {} if sure is None else {name: _spread(sure, name, plan) for name in ("together", "low", "high")}
    return wire.Similarity.model_validate({**plan, **matrices})


def _confidence(review: Json | None) -> Json | None:
    return None if review is None else review["confidence"]


def _spread(sure: Json, name: str, plan: Json) -> list[list[float | None]]:
    """A matrix over the resampled tasks as one over all tasks of the plan."""
    at = {task: index for index, task in enumerate(sure["task_names"])}
    places = [at.get(task) for task in plan["task_names"]]
    return [[None if a is None or b is None else sure[name][a][b] for b in places] for a in places]


def _why(why: Json | None) -> wire_why.TaskWhy | None:
    """The parts of the agreement with its group or, alone, with the nearest task; with the same in words."""
    if why is None:
        return None
    alone = any(block["own"] is None for block in why["blocks"])
    side, whom = ("other", "the nearest task") if alone else ("own", "its group")
    parts = {block["block"]: block[side] for block in why["blocks"] if block[side] is not None}
    return wire_why.TaskWhy.model_validate(
        {
            "whom": whom,
            "modality": by_modality(parts),
            "agree": agreeing(parts),
            "conflict": conflicting(parts),
            "blocks": why["blocks"],
            "trend": why["trend"],
            "words": parts_sentence(parts, whom),
            "trend_words": trend_words(why["trend"]),
        }
    )
