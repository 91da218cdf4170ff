"""`cohort bench`: measures methods on tasks and leaves a table and a figure."""

import os
import shlex
from pathlib import Path
from statistics import fmean

import typer
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from service import show
from service.benchmark import Finished, Machine, run
from service.benchmark_cells import Part
from service.benchmark_figure import draw
from service.benchmark_records import PlanRecord
from service.benchmark_spec import parse_bench
from service.benchmark_table import (
    Table,
    header,
    in_percent,
    make_table,
    plain,
    provenance,
    summary_row,
    to_csv,
    to_json,
    to_markdown,
)
from service.roles import DEFAULT_TENANT
from service.scores import by_metric, in_words
from service.settings import Settings
from workers.storage import write as write_file


def bench(
    file: Path,
    *,
    home: Path | None,
    out: Path | None,
    workers: int,
    threads: int | None,
    device: str,
    validation: bool,
    data_root: list[Path] | None,
    as_json: bool,
) -> int:
    """Runs what is missing, writes and prints the table, then draws the figure; the exit code."""
    given = {"home": home, "data_roots": [str(root) for root in data_root] if data_root else None}
    settings = Settings.load(**{name: value for name, value in given.items() if value is not None})
    spec = parse_bench(file.read_bytes())
    part: Part = "validation" if validation else "test"
    folder = (out or settings.home / "bench" / spec.name).resolve()
    machine = Machine(
        roots=settings.roots_of(DEFAULT_TENANT),
        cache=settings.home / "cache",
        device=device,
        workers=workers,
        threads=threads or max(1, (os.cpu_count() or 1) // workers),
    )
    command = ["cohort"] + ["--home", str(home)] * (home is not None) + ["bench", str(file)]
    command += ["--out", str(out)] * (out is not None)
    command += ["--workers", str(workers)] * (workers > 1) + ["--threads", str(threads)] * (threads is not None)
    command += [word for root in data_root or () for word in ("--data-root", str(root))]
    command += ["--device", device] * (device != "auto") + ["--validation"] * validation
    aside = Console(stderr=True, soft_wrap=True)
    interrupted = False
    try:
        run(spec, folder, part, machine, lambda finished: _tell(aside, finished))
    except KeyboardInterrupt:
        interrupted = True
        aside.print("Interrupted. What is finished is kept; the same command goes on with the rest.")
    table = make_table(spec, folder, part, shlex.join(command))
    if not table.records:
        return 130
    write(table, folder)
    if as_json:
        typer.echo(to_json(table))
    else:
        _show(table)
    draw(table, folder)
    aside.print(f"Table and figure: {folder}", highlight=False)
    return 130 if interrupted else int(table.has_gaps)


def write(table: Table, folder: Path) -> None:
    """table.csv, table.json and table.md; scores on validation images go to files that are named so."""
    name = "table" if table.part == "test" else "validation-table"
    write_file(folder / f"{name}.csv", to_csv(table).encode())
    write_file(folder / f"{name}.json", to_json(table).encode())
    write_file(folder / f"{name}.md", to_markdown(table).encode())


def _tell(console: Console, finished: Finished) -> None:
    record, item = finished.record, finished.item
    shots = "" if item.shots is None else f"{item.shots} shots, "
    if record.reason is not None:
        outcome = f"failed: {record.reason}"
    elif isinstance(record, PlanRecord):
        outcome = f"{len(record.groups)} group(s) in {record.seconds:.0f} s"
    else:
        scores = by_metric(record.tasks.values())
        means = [in_words(fmean(task.score for task in tasks), metric) for metric, tasks in scores.items()]
        outcome = f"{', '.join(means)} in {record.seconds:.1f} s"
    console.print(
        Text(f"[{finished.number}/{finished.total}] {finished.what}, {shots}seed {item.seed}: {outcome}"),
        style="red" if record.reason is not None else "",
    )


def _show(table: Table) -> None:
    console = show.console()
    console.print(Text(f"{table.spec.name}\n", style="bold") + Text(table.caption, style="not bold"))
    console.print(_rich(header(table), [summary_row(table, row) for row in table.rows]))
    names = list(table.metrics)
    console.print(Text("Every task's mean score, %: " + ", ".join(f"{n} {name}" for n, name in enumerate(names, 1))))
    several = len(table.spec.shots or ()) > 1
    per_task = [
        [row.name + (f", {row.shots} shots" if several else "")]
        + [
            in_percent(spread.model_copy(update={"std": None})) if (spread := row.tasks.get(name)) else "-"
            for name in names
        ]
        for row in table.rows
    ]
    console.print(_rich(["", *(str(number) for number in range(1, len(names) + 1))], per_task))
    for row in table.rows:
        for seed, reason in row.failed.items():
            console.print(
                Text(f"{row.name}, {plain(row.shots, 'd')} shots, seed {seed}, failed: {reason}", style="red")
            )
    console.print(Text(provenance(table), style="dim"))


def _rich(columns: list[str], rows: list[list[str]]) -> RichTable:
    """Words to the left, numbers to the right."""
    table = show.plain_table(columns, rows)
    for column, name in zip(table.columns, columns, strict=True):
        column.justify = "left" if name in ("", "method", "sharing", "seeds") else "right"
    return table
