"""Plans for pages: one plan with all that is known of it, and a form that asks for another one."""

import json
from collections.abc import Mapping

from grouping.outline import PlanOutline
from service.errors import SpecError
from service.plan_views import plan_facts, task_reasons
from service.reading import read_mapping
from service.wire_plans import PlanDetail
from service.wire_why import PlanFacts, TaskReason


def facts_and_reasons(detail: PlanDetail) -> tuple[PlanFacts, list[TaskReason]]:
    """How a plan came about and how sure it is, and why every task is where it is."""
    outline = PlanOutline.model_validate({name: getattr(detail, name) for name in PlanOutline.model_fields})
    facts = plan_facts(outline, detail.plan, detail.review, None, number=detail.number, approved=detail.approved)
    return facts, task_reasons(detail.plan, detail.review)


def new_plan(fields: Mapping[str, str]) -> bytes:
    """The fields of the form as the body that asks for a plan.  SpecError."""
    asked: dict[str, object] = {}
    settings = {name: text for name in ("num_groups", "max_group_size", "similarity") if (text := fields.get(name))}
    numbers = {name: int(text) for name, text in settings.items() if text.isdecimal() and len(text) < 10}
    if settings:
        asked["settings"] = settings | numbers
    if text := fields.get("groups", "").strip():
        groups = read_mapping(text)
        asked["groups"] = {str(group): _names(group, tasks) for group, tasks in groups.items()}
    if not asked:
        raise SpecError("Nothing was asked for. Choose a setting, or give groups.")
    return json.dumps(asked).encode()


def _names(group: object, tasks: object) -> list[str]:
    """`art, clipart` and `[art, clipart]` alike."""
    if isinstance(tasks, str):
        return [name.strip() for name in tasks.split(",") if name.strip()]
    if isinstance(tasks, list):
        return [str(name) for name in tasks]
    raise SpecError(f"groups: {group!r:.60} is given {tasks!r:.80}; expected its tasks, such as `g1: art, clipart`.")
