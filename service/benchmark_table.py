"""The table of a benchmark: records as rows, and the rows as CSV, JSON, Markdown and for a terminal.

A row is a contestant with a number of shots.  Its score under a metric is the mean over the tasks of that metric, and
over seeds the mean and the standard deviation (ddof 1) of that.  What did not run leaves a gap, never a number.
"""

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import computed_field

from service.benchmark_cells import Part, PlanCell, cells
from service.benchmark_records import PlanRecord, Record, read_plan, read_record
from service.benchmark_spec import BenchSpec
from service.reading import quoted
from service.scores import title
from workers.data.config import METRICS, ExplicitSplit, FractionSplit
from workers.methods.config import Sharing
from workers.spec import Spec


class Spread(Spec):
    """Numbers of several seeds as one."""

    mean: float
    std: float | None
    """Standard deviation over the seeds, ddof 1; None for a single one."""

    @staticmethod
    def of(values: Sequence[float]) -> "Spread | None":
        """None where there is no number."""
        if not values:
            return None
        return Spread(mean=statistics.fmean(values), std=statistics.stdev(values) if len(values) > 1 else None)


class Row(Spec):
    """A contestant with a number of shots."""

    label: str
    kind: str
    sharing: Sharing | None
    shots: int | None
    seeds: tuple[int, ...]
    """Those that are in the numbers."""
    failed: dict[int, str]
    """Seed -> why it is not."""
    missing: tuple[int, ...]
    """Seeds that have not run."""
    scores: dict[str, Spread]
    """Metric -> mean over its tasks, over seeds."""
    tasks: dict[str, Spread]
    """Task -> its score, over seeds."""
    parameters: float | None
    """Trained numbers, all tasks together; a mean where seeds have different groups."""
    percent: float | None
    """Of the backbone's parameters."""
    num_groups: float | None
    """Groups formed, mean over seeds; None where the sharing forms none."""
    seconds_per_step: float | None
    """A step of all tasks; median over seeds.  None where no step is taken."""
    images_per_second: float | None
    """Training images in training steps; median over seeds."""
    peak_memory_mb: float | None
    """The largest over seeds."""
    seconds: float | None
    """Features, training and evaluation; median over seeds."""

    @computed_field
    @property
    def name(self) -> str:
        """The contestant in one word or two."""
        return self.label if self.sharing is None else f"{self.label} {self.sharing}"


class Table(Spec):
    """A benchmark's outcome."""

    spec: BenchSpec
    caption: str
    part: Part
    date: str
    """The newest of its cells'."""
    commit: str
    """Of the code that its cells ran with."""
    hardware: str
    command: str
    metrics: dict[str, str]
    """Task -> its metric."""
    rows: tuple[Row, ...]
    plans: tuple[PlanRecord, ...]
    """The groups of every draw that needed some."""
    records: tuple[Record, ...]
    """Every cell that has run, seed by seed."""

    @property
    def has_gaps(self) -> bool:
        """Whether something failed, or has not run."""
        return any(row.failed or row.missing for row in self.rows)

    @property
    def metric_names(self) -> list[str]:
        """Its tasks' metrics, each once."""
        return list(dict.fromkeys(self.metrics.values()))


def make_table(spec: BenchSpec, folder: Path, part: Part, command: str) -> Table:
    """What the records under `folder` say."""
    metrics = {task.name: METRICS[task.kind] for task in spec.tasks}
    rows: list[Row] = []
    records: dict[str, Record] = {}
    plans: dict[str, PlanCell] = {}
    for contestant, wanted in cells(spec, part):
        for shots in dict.fromkeys(cell.shots for cell in wanted):
            found = {cell.seed: read_record(folder, cell) for cell in wanted if cell.shots == shots}
            records |= {record.cell.name: record for record in found.values() if record}
            identity = {"label": contestant.label, "kind": contestant.method.kind, "sharing": contestant.sharing}
            rows.append(make_row(found, metrics, **identity, shots=shots))
        plans |= {cell.plan.name: cell.plan for cell in wanted if cell.plan}
    ran = list(records.values())
    return Table(
        spec=spec,
        caption=_caption(spec, part),
        part=part,
        date=max((record.date for record in ran), default=""),
        commit=_all(record.commit for record in ran),
        hardware=_all(record.hardware for record in ran),
        command=command,
        metrics=metrics,
        rows=tuple(rows),
        plans=tuple(plan for cell in plans.values() if (plan := read_plan(folder, cell))),
        records=tuple(ran),
    )


def make_row(found: Mapping[int, Record | None], metrics: Mapping[str, str], **identity: Any) -> Row:
    """One row from a record per seed (None: it has not run)."""
    done = {seed: record for seed, record in found.items() if record and record.reason is None}
    of_metric: dict[str, list[str]] = {}
    for task, metric in metrics.items():
        of_metric.setdefault(metric, []).append(task)
    scores = {
        metric: Spread.of([statistics.fmean(record.tasks[task].score for task in tasks) for record in done.values()])
        for metric, tasks in of_metric.items()
    }
    per_task = {task: Spread.of([record.tasks[task].score for record in done.values()]) for task in metrics}
    stepped = [record for record in done.values() if record.steps and record.train_seconds]

    def over(summary: Callable[[list[float]], float], values: Iterable[float]) -> float | None:
        return summary(known) if (known := list(values)) else None

    return Row(
        **identity,
        seeds=tuple(done),
        failed={seed: record.reason for seed, record in found.items() if record and record.reason is not None},
        missing=tuple(seed for seed, record in found.items() if record is None),
        scores={metric: spread for metric, spread in scores.items() if spread},
        tasks={task: spread for task, spread in per_task.items() if spread},
        parameters=over(statistics.fmean, (record.parameters for record in done.values())),
        percent=over(
            statistics.fmean, (100 * record.parameters / record.backbone_parameters for record in done.values())
        ),
        num_groups=over(statistics.fmean, (len(record.groups) for record in done.values() if record.groups)),
        seconds_per_step=over(statistics.median, (record.train_seconds / record.steps for record in stepped)),
        images_per_second=over(statistics.median, (record.images / record.train_seconds for record in stepped)),
        peak_memory_mb=over(max, (record.peak_memory_mb for record in done.values())),
        seconds=over(statistics.median, (record.seconds for record in done.values())),
    )


def header(table: Table) -> list[str]:
    """The columns of a summary; `summary_row` gives a row's cells."""
    shots = ["shots"] if any(row.shots is not None for row in table.rows) else []
    scores = [f"{title(metric)} %" for metric in table.metric_names]
    return ["method", "sharing", *shots, *scores, "parameters", "% of CLIP", "s/step", "images/s", "peak MB", "seeds"]


def summary_row(table: Table, row: Row) -> list[str]:
    """A row in words, as a terminal and Markdown show it."""
    shots = [plain(row.shots, "d")] if any(other.shots is not None for other in table.rows) else []
    every = len(row.seeds) + len(row.failed) + len(row.missing)
    gaps = [f"{len(row.failed)} failed"] * bool(row.failed) + [f"{len(row.missing)} to run"] * bool(row.missing)
    nothing = "failed" if row.failed else "-"
    return [
        row.label,
        row.sharing or "-",
        *shots,
        *(in_percent(row.scores.get(metric), nothing) for metric in table.metric_names),
        plain(row.parameters, ",.0f"),
        plain(row.percent, ".3f"),
        plain(row.seconds_per_step, ".3g"),
        plain(row.images_per_second, ",.0f"),
        plain(row.peak_memory_mb, ",.0f"),
        f"{len(row.seeds)} of {every}, {', '.join(gaps)}" if gaps else str(every),
    ]


def in_percent(spread: Spread | None, nothing: str = "-") -> str:
    """`88.1 ± 0.4`."""
    if spread is None:
        return nothing
    return f"{100 * spread.mean:.1f}" + ("" if spread.std is None else f" ± {100 * spread.std:.1f}")


def plain(value: float | None, form: str) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def provenance(table: Table) -> str:
    """Date, commit, hardware and command, as every output carries them."""
    return f"{table.date}, commit {table.commit or 'none'}; {table.hardware}; `{table.command}`"


def to_csv(table: Table) -> str:
    """One line per row; scores 0..1; a gap is an empty field."""
    lines = []
    for row in table.rows:
        line: dict[str, Any] = {name: getattr(row, name) for name in ("label", "kind", "sharing", "shots")}
        line |= {"seeds": len(row.seeds), "failed": len(row.failed), "missing": len(row.missing)}
        for metric in table.metric_names:
            spread = row.scores.get(metric)
            line |= {f"{metric}_mean": spread and spread.mean, f"{metric}_std": spread and spread.std}
        numbers = ("parameters", "percent", "num_groups", "seconds_per_step", "images_per_second")
        line |= {name: getattr(row, name) for name in (*numbers, "peak_memory_mb", "seconds")}
        line |= {f"task:{task}": spread.mean if (spread := row.tasks.get(task)) else None for task in table.metrics}
        line |= {"scored": table.part} | {name: getattr(table, name) for name in ("date", "commit", "hardware")}
        lines.append(line | {"command": table.command})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def to_json(table: Table) -> str:
    """Everything, seed by seed; what the description says of tasks and backbone is said once."""
    said = {"backbone", "tasks"}
    left_out = {
        "records": {"__all__": {"cell": {*said, "plan"}}},
        "plans": {"__all__": {"cell": said}},
    }
    return table.model_dump_json(indent=1, exclude=left_out)


def to_markdown(table: Table) -> str:
    """The summary, every task's mean, and what stands behind them."""
    rows = [summary_row(table, row) for row in table.rows]
    shots = ["shots"] if "shots" in header(table) else []
    per_task = [
        [row.label, row.sharing or "-", *([plain(row.shots, "d")] if shots else [])]
        + [in_percent(row.tasks.get(task)) for task in table.metrics]
        for row in table.rows
    ]
    parts = [
        f"# {table.spec.name}",
        table.caption,
        _grid(header(table), rows),
        "Every task's score, %:",
        _grid(["method", "sharing", *shots, *table.metrics], per_task),
        *(f"{row.name}, seed {seed}, failed: {reason}" for row in table.rows for seed, reason in row.failed.items()),
        provenance(table),
    ]
    return "\n\n".join(parts) + "\n"


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _caption(spec: BenchSpec, part: Part) -> str:
    scored = (
        "Scores on TEST images at the last step; nothing was chosen on them."
        if part == "test"
        else "Scores on VALIDATION images at the last step, for choosing settings; no test image was looked at."
    )
    given = [
        task.name
        for task in spec.tasks
        if isinstance(task.split, ExplicitSplit) or (isinstance(task.split, FractionSplit) and task.split.fraction == 1)
    ]
    same = f" The images of {quoted(given)} are given, the same under every seed." if given else ""
    return (
        f"{scored} Mean over {len(spec.tasks)} task(s), then mean ± standard deviation over {len(spec.seeds)} seed(s). "
        "Parameters are those of all tasks together; a step serves every task once."
        f"{same}"
    )


def _all(values: Iterable[str | None]) -> str:
    return "; ".join(sorted({value for value in values if value}))
