"""A benchmark measures its whole matrix once, and says what it measured."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.text import Annotation, Text
from rich.console import Console
from typer.testing import CliRunner

from service.benchmark import Finished, Machine, run
from service.benchmark_cells import Cell, cells
from service.benchmark_figure import against_parameters, draw
from service.benchmark_records import Record, TaskScore, WorkerWork, read_plan, read_record, record_path
from service.benchmark_spec import BenchSpec, parse_bench
from service.benchmark_table import Table, make_row, make_table, to_csv, to_json, to_markdown
from service.benchmark_worker import Worker
from service.cli import app
from service.cli_bench import _tell
from service.errors import SpecError
from workers.data.roots import DataRoots
from workers.storage import write

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "benchmarks").glob("*.yaml"))
TASKS = [{"name": name, "source": {"kind": "folder", "uri": name}} for name in ("art", "clipart")]
BENCH = {
    "name": "tiny",
    "backbone": {"model": "demo"},
    "tasks": TASKS,
    "methods": [
        {"kind": "zero_shot"},
        {"label": "slow", "method": {"kind": "mmap", "sharing": ["alone", "all", "grouped"]}, "training": {"lr": 0.1}},
    ],
    "shots": [2, 1],
    "seeds": [1, 2, 3],
    "training": {"max_steps": 2, "batch_size": 4, "lr": 0.01},
}


def make_spec(**changes: object) -> BenchSpec:
    return parse_bench({**BENCH, **changes})


def make_record(cell: Cell, score: float, **fields: object) -> Record:
    """A record as a worker would write it; the second task does a tenth better."""
    scored = {"metric": "accuracy", "metrics": {}, "loss": 1.0, "num_images": 10}
    given = {
        "cell": cell,
        "date": "2026-01-02",
        "commit": "abc",
        "hardware": "a machine",
        "tasks": {"art": {**scored, "score": score}, "clipart": {**scored, "score": score + 0.1}},
        "group_shared": 100 * (cell.method.kind != "zero_shot"),
        "backbone_parameters": 1000,
        "steps": 4,
        "images": 80,
        "train_seconds": score * 2,
        "seconds": 3.0,
        "peak_memory_mb": 100 * score,
    }
    return Record.model_validate(given | fields)


def keep(folder: Path, record: Record) -> None:
    write(record_path(folder, record.cell), record.model_dump_json().encode())


@pytest.fixture
def filled(tmp_path: Path) -> Table:
    """The table of a benchmark in which seed 3 of `slow all` with one shot failed and `slow grouped` did not run."""
    spec = make_spec()
    rng = np.random.default_rng(0)
    for contestant, wanted in cells(spec, "test"):
        for cell in wanted if contestant.sharing != "grouped" else []:
            fails = (contestant.sharing, cell.shots, cell.seed) == ("all", 1, 3)
            score = float(rng.uniform(0.3, 0.8))
            keep(tmp_path, make_record(cell, score, reason="the loss is nan") if fails else make_record(cell, score))
    return make_table(spec, tmp_path, "test", "cohort bench tiny.yaml")


# what is written


def test_the_matrix_is_methods_by_sharing_by_shots_by_seeds() -> None:
    matrix = cells(make_spec(), "test")
    assert [contestant.title for contestant, _ in matrix] == ["zero_shot", "slow alone", "slow all", "slow grouped"]
    for contestant, wanted in matrix:
        assert [(cell.shots, cell.seed) for cell in wanted] == [(s, seed) for s in (1, 2) for seed in (1, 2, 3)]
        for cell in wanted:
            assert [(task.split.shots, task.split.seed) for task in cell.tasks] == [(cell.shots, cell.seed)] * 2  # pyright: ignore
            assert cell.training.seed == cell.seed
            assert cell.training.lr == (0.01 if contestant.label == "zero_shot" else 0.1)
            assert (cell.plan is not None) == (contestant.sharing == "grouped")
    assert len({cell.name for _, wanted in matrix for cell in wanted}) == 24


def test_without_shots_every_seed_draws_each_tasks_own_split() -> None:
    splits = [{"fraction": 0.5, "seed": 7}, {"shots": 3}, {"train": "a", "test": "b"}]
    tasks = [{**TASKS[0], "name": f"t{number}", "split": split} for number, split in enumerate(splits)]
    spec = make_spec(tasks=tasks, shots=None)
    wanted, *_ = (wanted for _, wanted in cells(spec, "test"))
    for seed, cell in zip((1, 2, 3), wanted, strict=True):
        assert cell.shots is None
        assert [task.split.model_dump(include={"fraction", "shots", "seed", "train"}) for task in cell.tasks] == [
            {"fraction": 0.5, "seed": seed},
            {"shots": 3, "seed": seed},
            {"train": "a"},
        ]
    caption = make_table(spec, Path("/nowhere"), "test", "").caption
    assert "'t2' are given, the same under every seed" in caption and "t0" not in caption


def test_contestants_that_need_groups_share_one_plan_for_each_draw() -> None:
    methods = [{"kind": kind, "sharing": ["grouped", "grouped+task"]} for kind in ("mmap", "coop")]
    matrix = cells(make_spec(methods=methods), "test")
    plans = [{cell.plan.name for cell in wanted if cell.plan} for _, wanted in matrix]
    assert len(plans) == 4 and all(names == plans[0] for names in plans) and len(plans[0]) == 6


def test_a_changed_entry_changes_its_own_cells_only() -> None:
    def names(spec: BenchSpec) -> dict[str, set[str]]:
        return {contestant.title: {cell.name for cell in wanted} for contestant, wanted in cells(spec, "test")}

    zero_shot, slow = BENCH["methods"]
    before = names(make_spec())
    after = names(make_spec(methods=[{**slow, "training": {"lr": 0.2}}, {**zero_shot, "label": "CLIP"}]))
    assert after["CLIP"] == before["zero_shot"], "a label and the order are no settings"
    assert all(not after[title] & before[title] for title in ("slow alone", "slow all", "slow grouped"))
    deeper = names(make_spec(shared_prompt={"method": {"num_tokens": 2}}))
    assert {title for title in before if deeper[title] != before[title]} == {"slow grouped"}


def test_a_methods_own_length_in_epochs_replaces_the_common_one_in_steps() -> None:
    spec = make_spec(methods=[{"kind": "mmap", "training": {"epochs": 7}}, {"kind": "coop", "sharing": "all"}])
    assert [(found.training.epochs, found.training.max_steps) for found in spec.contestants()] == [(7, None), (5, 2)]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"methods": [{"kind": "zero_shot"}, {"kind": "zero_shot"}]}, "label"),
        ({"methods": [{"kind": "mmap", "sharing": ["all", "half"]}]}, "half"),
        ({"methods": [{"kind": "mmap", "training": {"seed": 1}}]}, "seeds"),
        ({"methods": [{"kind": "mmap", "shering": ["all"]}]}, "methods[0].shering"),
        ({"training": {"seed": 1}}, "seeds"),
        ({"training": {"validations": 3}}, "validations=3"),
        ({"methods": [{"kind": "mmap", "training": {"validations": 3}}]}, "validations=3"),
        ({"methods": [{"kind": "zero_shot"}], "grouping": {"num_groups": 2}}, "'grouping' given"),
        ({"methods": [{"kind": "zero_shot"}], "shared_prompt": {"training": {"lr": 1}}}, "'shared_prompt' given"),
        ({"seeds": [1, 1]}, "more than once"),
        ({"tasks": [{**TASKS[0], "split": {"fraction": 0.5}}]}, "by shots"),
        ({"grouping": {"approve": True}}, "approve"),
        ({"grouping": {"must_link": [["art", "dogs"]]}}, "dogs"),
        ({"shots": []}, "shots"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(changes: dict, told: str) -> None:
    with pytest.raises(SpecError) as refused:
        make_spec(**changes)
    assert told in str(refused.value)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_benchmarks_are_understood(path: Path) -> None:
    spec = parse_bench(path.read_bytes())
    assert spec.backbone.model == "demo"
    if path.stem != "demo_lr":  # the sweep: some of the tasks, on a draw of its own
        assert len(spec.tasks) == 9 and spec.seeds == (1, 2, 3)


def test_the_demo_benchmark_measures_every_method() -> None:
    spec = parse_bench(next(path for path in EXAMPLES if path.stem == "demo").read_bytes())
    known = BenchSpec.model_json_schema()["$defs"]["BenchMethod"]["properties"]["method"]["discriminator"]["mapping"]
    assert {contestant.method.kind for contestant in spec.contestants()} == set(known)
    for kind in ("mmap", "coop", "adapter"):
        (method,) = {type(found.method) for found in spec.contestants() if found.method.kind == kind}
        assert {found.sharing for found in spec.contestants() if found.method.kind == kind} == set(method.sharings)


# the table


def test_rows_are_means_and_deviations_over_seeds_of_means_over_tasks() -> None:
    (contestant, wanted), *_ = cells(make_spec(shots=[1]), "test")
    values = np.array([0.31, 0.42, 0.59])
    found = {cell.seed: make_record(cell, value) for cell, value in zip(wanted, values, strict=True)}
    row = make_row(found, {"art": "accuracy", "clipart": "accuracy"}, **identity(contestant.label))
    assert row.scores["accuracy"].mean == pytest.approx(np.mean(values + 0.05))
    assert row.scores["accuracy"].std == pytest.approx(np.std(values, ddof=1))
    assert row.tasks["clipart"].mean == pytest.approx(np.mean(values + 0.1))
    assert row.seconds_per_step == pytest.approx(2 * 0.42 / 4)
    assert row.images_per_second == pytest.approx(80 / (2 * 0.42))
    assert row.peak_memory_mb == pytest.approx(59)


def test_metrics_are_never_averaged_together() -> None:
    (_, (cell, *_)), *_ = cells(make_spec(), "test")
    score = TaskScore(metric="", score=0.5, metrics={}, loss=1.0, num_images=1)
    tasks = {"art": score, "clipart": score.model_copy(update={"score": 0.9})}
    row = make_row(
        {1: make_record(cell, 0.5, tasks=tasks)}, {"art": "accuracy", "clipart": "recall@1"}, **identity("a")
    )
    assert {metric: (spread.mean, spread.std) for metric, spread in row.scores.items()} == {
        "accuracy": (0.5, None),
        "recall@1": (0.9, None),
    }


def identity(label: str) -> dict:
    return {"label": label, "kind": "zero_shot", "sharing": None, "shots": 1}


def test_gaps_are_told_and_never_counted(filled: Table) -> None:
    rows = {(row.name, row.shots): row for row in filled.rows}
    assert rows["slow all", 1].seeds == (1, 2) and rows["slow all", 1].failed == {3: "the loss is nan"}
    assert rows["slow all", 2].seeds == (1, 2, 3)
    assert rows["slow grouped", 1].missing == (1, 2, 3) and rows["slow grouped", 1].scores == {}
    assert filled.has_gaps
    assert "1 failed" in to_markdown(filled) and "the loss is nan" in to_markdown(filled)


def test_csv_json_and_markdown_agree_and_say_where_they_come_from(filled: Table) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(filled))))
    told = json.loads(to_json(filled))
    assert len(lines) == len(told["rows"]) == 8
    for line, row in zip(lines, told["rows"], strict=True):
        assert (line["label"], line["sharing"], int(line["shots"])) == (
            row["label"],
            row["sharing"] or "",
            row["shots"],
        )
        score = row["scores"].get("accuracy", {"mean": ""})
        assert line["accuracy_mean"] == str(score["mean"])
        if row["scores"]:
            assert f"{100 * score['mean']:.1f} ± {100 * score['std']:.1f}" in to_markdown(filled)
            assert float(line["task:art"]) == row["tasks"]["art"]["mean"]
    assert len(told["records"]) == 18, "seed by seed"
    for text in (to_csv(filled), to_json(filled), to_markdown(filled)):
        for fact in ("2026-01-02", "abc", "a machine", "cohort bench tiny.yaml"):
            assert fact in text


def test_the_table_says_which_images_were_scored(tmp_path: Path) -> None:
    captions = {part: make_table(make_spec(), tmp_path, part, "").caption for part in ("test", "validation")}
    assert "TEST" in captions["test"] and "nothing was chosen" in captions["test"]
    assert "VALIDATION" in captions["validation"] and "no test image" in captions["validation"]


# the figure


def test_figures_are_drawn_for_people_and_for_print(filled: Table, tmp_path: Path) -> None:
    written = draw(filled, tmp_path)
    assert [path.name for path in written] == ["figure.png", "figure.svg", "shots.png", "shots.svg"]
    assert written[0].read_bytes().startswith(b"\x89PNG") and b"<svg" in written[1].read_bytes()
    first = written[1].read_bytes()
    draw(filled, tmp_path)
    assert written[1].read_bytes() == first, "the same table is the same picture"


def test_labels_cover_neither_each_other_nor_leave_the_axes(filled: Table) -> None:
    rng = np.random.default_rng(1)
    row = next(row for row in filled.rows if row.scores)
    spread = row.scores["accuracy"]
    crowd = [
        row.model_copy(
            update={
                "label": f"method-{number}",
                "shots": 2,
                "parameters": 0.0 if number < 3 else float(10 ** rng.uniform(4, 5)),
                "scores": {"accuracy": spread.model_copy(update={"mean": float(rng.uniform(0.6, 0.7))})},
            }
        )
        for number in range(30)
    ]
    figure = against_parameters(filled.model_copy(update={"rows": tuple(crowd)}), 2)
    figure.canvas.draw()
    (axes,) = figure.axes
    labels = [label for label in axes.texts if isinstance(label, Annotation)]
    boxes = [Text.get_window_extent(label) for label in labels]
    assert len(boxes) == 30
    assert not [(a, b) for a in range(30) for b in range(a) if boxes[a].overlaps(boxes[b])]
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)


def test_a_label_is_no_formula(filled: Table, tmp_path: Path) -> None:
    rows = tuple(row.model_copy(update={"label": rf"$\frac{{$ {row.label}"}) for row in filled.rows)
    assert len(draw(filled.model_copy(update={"rows": rows}), tmp_path)) == 4


# the command


def test_a_figure_that_fails_hides_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no figure")

    spec = {**BENCH, "methods": [{"kind": "zero_shot"}]}
    for _, wanted in cells(parse_bench(spec), "test"):
        for cell in wanted:
            keep(tmp_path, make_record(cell, 0.5))
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump(spec))
    monkeypatch.setattr("service.cli_bench.draw", fail)
    arguments = ["--home", str(tmp_path / "home"), "bench", str(tmp_path / "bench.yaml"), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert str(result.exception) == "no figure"
    told = json.loads(result.stdout)
    assert len(told["rows"]) == 2
    assert told["command"].startswith(f"cohort --home {tmp_path / 'home'} bench "), "it can be given again"
    assert "zero_shot" in CliRunner().invoke(app, arguments).stdout


def test_progress_never_averages_two_metrics() -> None:
    (_, (cell, *_)), *_ = cells(make_spec(), "test")
    score = TaskScore(metric="accuracy", score=0.5, metrics={}, loss=1.0, num_images=1)
    other = score.model_copy(update={"metric": "recall@1", "score": 0.9})
    record = make_record(cell, 0.5, tasks={"art": score, "clipart": other})
    console = Console(file=io.StringIO(), width=200)
    _tell(console, Finished("zero_shot", cell, record, 1, 1))
    assert "50.0 %, 90.0 % recall@1 in 3.0 s" in console.file.getvalue()  # pyright: ignore


def test_a_damaged_record_is_set_aside_and_measured_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (_, _), (_, (cell, *_)), *_ = cells(make_spec(methods=[{"kind": "mmap", "sharing": ["all", "grouped"]}]), "test")
    assert cell.plan
    for item, read in ((cell, read_record), (cell.plan, read_plan)):
        path = record_path(tmp_path, item)
        write(path, b'{"cell": 1}')
        assert read(tmp_path, item) is None  # pyright: ignore
        assert not path.exists() and path.with_name(f"damaged-{path.name}").read_bytes() == b'{"cell": 1}'
        assert str(path) in caplog.text


# measuring


@pytest.fixture
def tiny(tiny_clip_dir: Path, task_folders: Callable[..., Path]) -> dict:
    """A benchmark of one shot and one seed on the tiny CLIP."""
    tasks = [
        {"name": name, "source": {"kind": "folder", "uri": str(task_folders(name))}} for name in ("art", "clipart")
    ]
    methods = [{"kind": "zero_shot"}, {"kind": "mmap", "sharing": "all"}]
    backbone = {"model": f"local-dir:{tiny_clip_dir}"}
    return {**BENCH, "backbone": backbone, "tasks": tasks, "methods": methods, "shots": [2], "seeds": [1]}


def make_work(spec: BenchSpec, folder: Path, part: str = "test") -> WorkerWork:
    wanted = [cell for _, of_contestant in cells(spec, part) for cell in of_contestant]  # pyright: ignore
    return WorkerWork(
        plans=tuple({cell.plan.name: cell.plan for cell in wanted if cell.plan}.values()),
        cells=tuple(wanted),
        folder=folder,
        roots=DataRoots(("/",)),
        cache=folder / "cache",
        device="cpu",
        threads=1,
        commit=None,
    )


def measure(spec: BenchSpec, folder: Path, part: str = "test") -> list[Record]:
    work = make_work(spec, folder, part)
    worker = Worker(work, lambda: False)
    assert all(worker.run(item) for item in (*work.plans, *work.cells))
    return [record for cell in work.cells if (record := read_record(folder, cell))]


def test_every_sharing_trains_the_groups_it_stands_for(tiny: dict, tmp_path: Path) -> None:
    modes = ["alone", "all", "grouped", "grouped+task"]
    spec = parse_bench(
        {
            **tiny,
            "methods": [{"kind": "mmap", "sharing": modes}],
            "profile": {"max_steps": 2, "snapshots": 1, "microbatches": 2, "microbatch_size": 2},
            "grouping": {"num_groups": 2},
        }
    )
    records = dict(zip(modes, measure(spec, tmp_path), strict=True))
    assert [record.reason for record in records.values()] == [None] * 4
    one = records["all"].parameters
    assert records["alone"].parameters == 2 * one
    assert records["grouped"].groups == (("art",), ("clipart",)) and records["grouped"].parameters == 2 * one
    assert records["grouped+task"].parameters == 4 * one
    for record in records.values():
        assert set(record.tasks) == {"art", "clipart"}
        assert (record.steps, record.images) == (2, 2 * (4 + 4))
        assert record.train_seconds > 0 and record.peak_memory_mb > 0 and record.hardware
    assert not list((tmp_path / "running").iterdir()), "no checkpoint is left"


def test_validation_scores_do_not_know_the_test_images(
    tiny: dict, task_folders: Callable[..., Path], tmp_path: Path
) -> None:
    def measured(part: str, test: Path) -> list[dict]:
        split = {"train": str(task_folders("art")), "val": str(task_folders("val")), "test": str(test)}
        task = {**tiny["tasks"][0], "split": split}
        records = measure(parse_bench({**tiny, "tasks": [task], "shots": None}), tmp_path / test.name / part, part)
        assert [record.reason for record in records] == [None, None]
        return [record.model_dump()["tasks"] for record in records]

    one = task_folders("one-test")
    other = task_folders("other-test", {"red": 2, "green": 9, "blue": 3})
    assert measured("validation", one) == measured("validation", other)
    assert measured("test", one) != measured("test", other)
    assert [found["art"]["num_images"] for found in measured("validation", other)] == [24, 24]


def test_a_task_without_validation_images_cannot_be_scored_on_them(tiny: dict, tmp_path: Path) -> None:
    split = {"shots": 1, "val_shots": 0}
    spec = parse_bench({**tiny, "tasks": [{**tiny["tasks"][0], "split": split}], "methods": [{"kind": "zero_shot"}]})
    (record,) = measure(spec, tmp_path, "validation")
    assert record.reason and "'art' has no validation images" in record.reason


def test_a_stopped_cell_leaves_no_record_and_goes_on(tiny: dict, tmp_path: Path) -> None:
    spec = parse_bench({**tiny, "methods": [{"kind": "mmap", "sharing": "all"}]})
    (cell,) = make_work(spec, tmp_path).cells
    asked = iter([False] * 3 + [True] * 100)
    assert not Worker(make_work(spec, tmp_path), lambda: next(asked)).run(cell)
    assert read_record(tmp_path, cell) is None
    assert any((tmp_path / "running").rglob("*.safetensors"))
    (resumed,), (whole,) = measure(spec, tmp_path), measure(spec, tmp_path / "whole")
    assert resumed.tasks == whole.tasks


@pytest.mark.slow
def test_a_second_run_measures_only_what_is_missing(tiny: dict, tmp_path: Path) -> None:
    gone = {"name": "gone", "source": {"kind": "folder", "uri": "/nowhere"}}
    home, out = tmp_path / "home", tmp_path / "out"
    file = tmp_path / "bench.yaml"
    machine = Machine(roots=DataRoots(("/",)), cache=tmp_path / "cache")
    told: list[Finished] = []
    spec = parse_bench(tiny)

    def interrupt(finished: Finished) -> None:
        told.append(finished)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, out, "test", machine, interrupt)
    assert len(told) == 1 and told[0].record.reason is None, "what was finished is kept"
    run(spec, out, "test", machine, told.append)
    assert [finished.what for finished in told] == ["zero_shot", "mmap all"]
    run(spec, out, "test", machine, lambda finished: pytest.fail(f"{finished.what} ran again"))

    file.write_text(yaml.safe_dump(tiny))
    arguments = ["--home", str(home), "bench", str(file), "--out", str(out), "--data-root", "/"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert [row["name"] for row in json.loads(result.stdout)["rows"]] == ["zero_shot", "mmap all"]
    assert {path.name for path in out.glob("*.*")} >= {
        "table.csv",
        "table.json",
        "table.md",
        "figure.png",
        "figure.svg",
    }

    file.write_text(yaml.safe_dump({**tiny, "tasks": [*tiny["tasks"], gone], "methods": [{"kind": "zero_shot"}]}))
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "failed" in result.stdout and "/nowhere" in result.stdout


@pytest.mark.slow
def test_a_process_that_dies_takes_its_cell_with_it_and_says_so(tiny: dict, tmp_path: Path) -> None:
    machine = Machine(roots=DataRoots(("/",)), cache=tmp_path / "cache", threads=0)  # torch refuses that at once
    told: list[Finished] = []
    run(parse_bench({**tiny, "methods": [{"kind": "zero_shot"}]}), tmp_path, "test", machine, told.append)
    (finished,) = told
    assert finished.record.reason is not None and "exit code 1" in finished.record.reason
