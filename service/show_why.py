"""Why a plan is as it is, and how sure, in a terminal: `service.wire` messages in, renderables out."""

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from service.plan_words import counted, gap_words, signed
from service.scores import WAYS, gain_words, title
from service.wire_gains import Arbitration, Gain
from service.wire_why import PlanFacts, TaskReason


def plan_lines(plan: PlanFacts) -> Table:
    """How the plan came about, and how sure it is; what was not measured is left out."""
    table = _facts()
    state = "approved" if plan.approved else "to approve"
    _add(table, f"plan {plan.number}", f"{state}, from {plan.origin}. {plan.summary}")
    if plan.verdict is not None:
        _add(table, "verdict", f"{plan.verdict.kind.replace('_', ' ')}. {plan.verdict.sentence}")
    if plan.confidence is not None:
        sure = plan.confidence
        pac = f"PAC {sure.ambiguous:.2f}, {sure.resamples} resamples"
        _add(table, "confidence", f"{sure.word}. {sure.sentence} {pac}.")
    elif not plan.reviewed and plan.origin not in ("alone", "all"):
        _add(table, "confidence", "not known yet: the review is not there")
    if plan.solver is not None:
        worth = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in plan.objective.items())
        _add(table, "solver", f"{plan.solver}{gap_words(plan.gap)}; objective: {worth}")
    if plan.second_opinion is not None:
        second = plan.second_opinion
        said = f"{second.solver}{gap_words(second.gap)}: {counted(len(second.groups), 'group')}"
        _add(
            table, "second opinion", f"{said}, agreement {second.agreement:.2f} (ARI), objective {second.objective:.2f}"
        )
    if plan.arbitration is not None:
        _add(table, "arbitration", plan.arbitration.sentence)
        for action in plan.arbitration.actions:
            _add(table, "", action.sentence)
        _add(table, "", plan.arbitration.power.sentence)
    return table


def agreements_table(plan: PlanFacts) -> Table:
    """How the affinities agree, pair by pair: rank correlation over pairs of tasks, and ARI of their groups."""
    table = _table("affinity", "and", "Spearman", "ARI of groups", right=2)
    for pair in plan.agreements:
        spearman = "-" if pair.spearman is None else signed(pair.spearman)
        table.add_row(pair.first, pair.second, spearman, signed(pair.rand_index))
    return table


def arbitration_table(found: Arbitration) -> Table:
    """What every task gained in the short runs, in points on validation images, with 95 % intervals."""
    table = _table("task", "tested in", "over alone", "over one group", "now in", "over alone", "over one group")
    for task in found.tasks:
        tested = [gain_words(task.tested_over_alone), gain_words(task.tested_over_one_group)]
        now = [gain_words(task.over_alone), gain_words(task.over_one_group)]
        table.add_row(Text(task.task), task.tested_group, *tested, task.group, *now)
    return table


def reason_lines(reason: TaskReason) -> Table:
    """One task: the sentence, and the figures behind it."""
    table = _facts()
    table.add_row(Text(reason.task, style="bold"), Text(f"in {reason.group}"))
    _add(table, "", reason.sentence)
    _add(table, "nearest", "; ".join(_neighbours(reason)))
    if reason.margin is not None and reason.next_group is not None:
        _add(table, "margin", f"{signed(reason.margin)} over {reason.next_group}, the next group")
    if reason.together is not None:
        share = f"{100 * reason.together:.0f} % of the resamples"
        said = f"with its group in {share}, margin {signed(reason.together_margin or 0.0)}"
        _add(table, "held", said)
    if reason.why is not None:
        _add(table, "where", reason.why.words)
        _add(table, "trend", f"with {reason.why.whom} {reason.why.trend_words}" if reason.why.trend_words else "")
    return table


def gains_table(gains: Iterable[Gain]) -> Table:
    """What the groups gained on test images, in points with 95 % intervals, one row a task; means first."""
    ways = list(dict.fromkeys(gain.against for gain in gains))
    rows: dict[tuple[str | None, str], dict[str, Gain]] = {}
    for gain in gains:
        rows.setdefault((gain.task, gain.metric), {})[gain.against] = gain
    table = _table("task", "metric", *(f"over {WAYS[way]}" for way in ways))
    for (task, metric), found in rows.items():
        name = Text("mean", style="bold") if task is None else Text(task)
        table.add_row(name, title(metric), *(gain_words(found.get(way)) for way in ways))
    return table


def _neighbours(reason: TaskReason) -> list[str]:
    said = []
    for near in reason.nearest:
        between = "" if near.low is None or near.high is None else f" ({signed(near.low)} to {signed(near.high)})"
        said.append(f"{near.task} {signed(near.similarity)}{between}")
    return said


def _facts() -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _add(table: Table, name: str, value: str) -> None:
    if value:
        table.add_row(Text(name, style="dim"), Text(value))


def _table(*columns: str, right: int | None = None) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if right is not None and index >= right else "left", overflow="fold")
    return table
