"""The report tells what the job measured, in one file, and strangers' words stay words."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from service.curves import Curve, chart, mean_curve, thin, ticks
from service.heat_map import MAX_SIDE, heat_map, shown_order
from service.report import render_report
from service.report_inputs import GroupRun, ReportInputs
from service.scores import LEGENDS
from service.wire_gains import Gain

JobOf = Callable[..., ReportInputs]
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Document(HTMLParser):
    """Collects elements and text, and fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def count(self, css_class: str) -> int:
        return sum(css_class in (attrs.get("class") or "").split() for _, attrs in self.elements)


@pytest.mark.parametrize("num_tasks", [1, 2, 9, 60])
def test_heat_map_has_a_cell_for_every_pair(job_of: JobOf, num_tasks: int):
    assert Document(render_report(job_of(num_tasks))).count("cell") == num_tasks**2


@pytest.mark.parametrize("num_tasks", [1, 9, 60])
def test_nothing_is_fetched_and_nothing_runs(job_of: JobOf, num_tasks: int):
    html = render_report(job_of(num_tasks))
    document = Document(html)
    assert not {tag for tag, _ in document.elements} & {"script", "link", "img", "iframe", "object", "embed", "a"}
    assert not re.search(r"(https?:|//\w|url\(|@import|\bsrc=|\bhref=|javascript:)", html)
    assert not [name for _, attrs in document.elements for name in attrs if name.startswith("on")]
    policy = next(attrs["content"] for _, attrs in document.elements if "http-equiv" in attrs)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_names_of_strangers_stay_words(named_job: JobOf):
    evil = "<script>alert(1)</script>"
    inputs = named_job(
        (f"a{evil}", f'b" onload="x{evil}', "c'&amp;"), job_name=f"job{evil}", class_names=(f"class{evil}", "other")
    )
    inputs = replace(inputs, warnings=(f"warning{evil}",), versions={f"lib{evil}": evil})
    html = render_report(inputs)
    document = Document(html)
    assert "<script" not in html
    assert not [name for _, attrs in document.elements for name in attrs if name.startswith("on")]
    for words in (f"a{evil}", f"job{evil}", f"warning{evil}", "c'&amp;"):
        assert words in document.text
    assert any(f"class{evil}" in (attrs.get("title") or "") for _, attrs in document.elements)


def test_template_and_class_names_of_the_spec_stay_words(job_of: JobOf):
    inputs = job_of(2)
    task = inputs.job.spec.tasks[0].model_copy(update={"template": "<b>{}</b>", "class_names": ["<i>x</i>", "y"]})
    spec = inputs.job.spec.model_copy(update={"tasks": [task, *inputs.job.spec.tasks[1:]]})
    html = render_report(replace(inputs, job=replace(inputs.job, spec=spec)))
    assert "<b>{}" not in html
    assert "<i>x" not in html
    assert "&lt;i&gt;x" in html


def test_every_score_and_signed_difference_is_told(job_of: JobOf):
    inputs = job_of(9)
    text = Document(render_report(inputs)).text
    for score in inputs.scores:
        assert score.grouped is not None and score.alone is not None
        assert f" {100 * score.grouped:.1f} " in text
        points = f"{100 * (score.grouped - score.alone):+.1f}".replace("-", "−")
        assert f"{points} {'▲' if points[0] == '+' else '▼'}" in text


def test_harmed_tasks_are_named_and_others_are_not(job_of: JobOf):
    inputs = job_of(2)
    hurt, fine = inputs.scores
    scores = [replace(hurt, grouped=0.5, alone=0.6), replace(fine, grouped=0.7, alone=0.71)]
    sure = Gain(
        mean=-0.1,
        low=-0.15,
        high=-0.05,
        num_tasks=1,
        num_images=300,
        task=hurt.task,
        against="alone",
        metric="accuracy",
    )
    unsure = sure.model_copy(update={"mean": -0.01, "low": -0.04, "high": 0.02, "task": fine.task})
    text = Document(render_report(replace(inputs, scores=scores, gains=[sure, unsure], curves=()))).text
    assert re.search(rf"1 of 2 tasks surely did worse in their group than alone: {hurt.task} \.", text)
    assert "−10.0 ▼" in text
    assert "−1.0 ▼" in text or "−1.0 ≈" in text


def mixed(inputs: ReportInputs) -> ReportInputs:
    """The same job with an accuracy, a mAP and a recall among its tasks."""
    first, second, third, last = inputs.scores
    recalls = {"image_to_text_recall@1": 0.4, "text_to_image_recall@1": 0.2, "recall@1": 0.3}
    second = replace(second, metric="mean_average_precision", metrics={"mean_average_precision": 0.81})
    third = replace(third, metric="recall@1", class_names=(), num_captions=1200, metrics=recalls)
    return replace(inputs, scores=[replace(first, grouped=0.5), second, third, replace(last, grouped=0.7)])


def test_metrics_are_named_explained_and_never_averaged_together(job_of: JobOf):
    inputs = mixed(job_of(4))
    text = Document(render_report(inputs)).text
    for score in inputs.scores:
        assert score.grouped is not None
        name = {"mean_average_precision": "mAP"}.get(score.metric, score.metric)
        assert re.search(rf"{score.task} .{{0,60}} {name} ", text)
        assert text.count(f"{LEGENDS[score.metric][:30]}") == 1
    assert "accuracy 60.0 % mean of 2 tasks" in text
    assert re.search(r"Mean over 2 tasks accuracy( \d+\.\d){3} 60\.0 ", text)
    assert "Mean over 1 task mAP" in text
    assert "Mean over 1 task recall@1" in text


def test_a_job_of_one_kind_has_one_mean_and_one_legend(job_of: JobOf):
    text = Document(render_report(job_of(4))).text
    assert text.count("Mean over 4 tasks accuracy") == 1
    assert "mAP" not in text
    assert "recall" not in text.lower()


def test_captions_are_counted_where_there_are_no_classes_and_every_recall_is_told(job_of: JobOf):
    text = Document(render_report(mixed(job_of(4)))).text
    assert re.search(r"1\s?200 captions", text)
    assert "image to text recall@1 40.0 " in text
    assert "text to image recall@1 20.0 " in text


def test_curves_of_one_metric_are_drawn_apart_from_those_of_another(job_of: JobOf):
    document = Document(render_report(mixed(job_of(4))))
    for name in ("accuracy", "mAP", "recall@1"):
        assert f"Validation {name} over steps" in document.text
        assert f"Shared prompt, all tasks, by {name}" in document.text
    assert "Validation score" not in document.text


def test_what_a_method_says_of_its_tasks_is_told_under_its_own_names(job_of: JobOf):
    inputs = job_of(2)
    first, second = inputs.scores
    told = replace(inputs, scores=[replace(first, details={"residual_norm": 0.1234, "gain": 2.0}), second])
    text = Document(render_report(told)).text
    assert "What the method says of its tasks" in text
    assert f"Task residual norm gain {first.task} 0.123 2 " in text
    assert "What the method says" not in Document(render_report(inputs)).text


@pytest.mark.parametrize(
    ("metric", "zero_shot", "difficulty"),
    [("accuracy", 0.25, 4 / 3), ("accuracy", 0.0, None), ("accuracy", None, None), ("recall@1", 0.25, None)],
)
def test_transfer_difficulty_is_guessing_over_zero_shot_accuracy(
    job_of: JobOf, metric: str, zero_shot: float | None, difficulty: float | None
):
    score = replace(job_of(1).scores[0], metric=metric, zero_shot=zero_shot)
    assert score.transfer_difficulty == (None if difficulty is None else pytest.approx(difficulty))


def test_taskres_has_the_transfer_difficulty_beside_the_length_of_its_residuals(job_of: JobOf):
    inputs = job_of(2, origin="alone", method={"kind": "taskres"}, baselines=["zero_shot"])
    first, second = inputs.scores
    scores = [
        replace(first, zero_shot=0.5, details={"residual_norm": 0.25}),
        replace(second, zero_shot=None, details={"residual_norm": 0.75}),
    ]
    text = Document(render_report(replace(inputs, scores=scores))).text
    row = f"Task Transfer difficulty residual norm {first.task} 0.667 0.25 {second.task} – 0.75 "
    assert row in text


def test_difference_that_rounds_to_nothing_has_no_sign(job_of: JobOf):
    inputs = job_of(1)
    score = replace(inputs.scores[0], grouped=0.5, alone=0.5002, zero_shot=0.4998, all=0.5)
    text = Document(render_report(replace(inputs, scores=[score]))).text
    assert "+0.0" not in text
    assert "−0.0 " not in text


def test_missing_results_are_dashes_and_failures_say_why(job_of: JobOf):
    inputs = job_of(3)
    scores = [replace(inputs.scores[0], grouped=None), *inputs.scores[1:]]
    runs = [replace(run, failure="loss is not finite" if run.id == "g1" else None) for run in inputs.runs]
    text = Document(render_report(replace(inputs, scores=scores, runs=runs))).text
    assert "failed: loss is not finite" in text
    assert " – " in text


@pytest.mark.parametrize("origin", ["alone", "all"])
def test_plan_that_measured_nothing_says_so_and_draws_no_heat_map(job_of: JobOf, origin: str):
    document = Document(render_report(job_of(3, origin=origin)))
    assert document.count("cell") == 0
    assert f"its plan is {origin}" in document.text


def test_tasks_without_a_gradient_have_empty_cells(job_of: JobOf):
    inputs = job_of(5, silent=2)
    document = Document(render_report(inputs))
    assert document.count("cell") == 25
    assert document.count("none") == 25 - 9
    assert "not measured" in document.text


def test_job_where_no_task_has_a_gradient_is_reported(job_of: JobOf):
    document = Document(render_report(job_of(3, silent=3)))
    assert "No task has a usable gradient" in document.text


def test_job_without_baselines_or_curves_is_reported(job_of: JobOf):
    inputs = job_of(2, baselines=[])
    document = Document(render_report(replace(inputs, curves=(), warnings=(), versions={})))
    assert document.count("chart") == 0
    assert "Warnings" not in document.text
    assert "Zero-shot" not in document.text


def test_runs_alone_are_summed_up_and_their_failures_are_not_hidden(job_of: JobOf):
    inputs = job_of(3)
    runs = [replace(run, failure="out of memory" if run.id == "alone-digits-0" else None) for run in inputs.runs]
    text = Document(render_report(replace(inputs, runs=runs))).text
    assert re.search(r"alone-digits-0 baseline alone 1 failed: out of memory", text)
    assert re.search(r"alone baseline alone 2 0 30\u202f?\s?728 30\s728 600 9\s600 19\.0 s", text)


def test_what_nobody_counted_is_a_dash(job_of: JobOf):
    inputs = job_of(2)
    inputs = replace(inputs, runs=[GroupRun("shared", "shared", ("a", "b"))])
    assert re.search(r"shared the shared prompt 2 – – – – – – ", Document(render_report(inputs)).text)


def test_groups_stand_together_in_the_heat_map(job_of: JobOf):
    plan = job_of(9).plan
    group_of = {task: group.id for group in plan.groups for task in group.tasks}
    seen = [group_of[task] for task in shown_order(plan)]
    changes = sum(a != b for a, b in pairwise(seen))
    assert changes == len(plan.groups) - 1
    heat = heat_map(plan)
    assert heat is not None
    assert sorted(round(box.size / heat.cell) for box in heat.boxes) == sorted(
        len(group.tasks) for group in plan.groups
    )


def test_heat_map_shows_the_plans_values_in_its_own_order(job_of: JobOf):
    plan = job_of(9).plan
    heat = heat_map(plan)
    assert heat is not None and plan.similarity is not None
    order, at = shown_order(plan), {task: i for i, task in enumerate(plan.task_names)}
    for number, cell in enumerate(heat.cells):
        row, column = (at[order[i]] for i in divmod(number, 9))
        assert float(cell.text.replace("−", "-")) == pytest.approx(plan.similarity[row][column], abs=0.005)


def test_more_tasks_than_a_square_can_show_are_drawn_by_group(job_of: JobOf):
    plan = job_of(9).plan
    many = plan.model_copy(
        update={
            "task_names": [f"t{i}" for i in range(MAX_SIDE + 2)],
            "order": [f"t{i}" for i in range(MAX_SIDE + 2)],
            "groups": [
                plan.groups[0].model_copy(update={"tasks": [f"t{i}" for i in range(0, MAX_SIDE + 2, 2)]}),
                plan.groups[1].model_copy(update={"tasks": [f"t{i}" for i in range(1, MAX_SIDE + 2, 2)]}),
            ],
            "similarity": [
                [1.0 if i == j else 0.5 if (i - j) % 2 == 0 else -0.25 for j in range(MAX_SIDE + 2)]
                for i in range(MAX_SIDE + 2)
            ],
        }
    )
    heat = heat_map(many)
    assert heat is not None and heat.by_group
    assert [cell.text for cell in heat.cells] == ["0.50", "−0.25", "−0.25", "0.50"]


def test_thinned_curve_keeps_its_mean_and_its_bound():
    points = [(float(step), float(step % 7)) for step in range(1000)]
    thinned = thin(points)
    assert len(thinned) == 120
    assert sum(value for _, value in thinned) / 120 == pytest.approx(3.0, abs=0.05)
    assert thin(points[:120]) == points[:120]


def test_mean_curve_counts_a_curve_only_while_it_runs():
    assert mean_curve([[(0, 1.0), (2, 3.0)], [(0, 3.0), (1, 5.0)]]) == [(0.0, 2.0), (1.0, 3.5), (2.0, 3.0)]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.31, 0.33), (5, 5), (0, 0), (-3, 1e6), (1e-9, 2e-9)])
def test_ticks_enclose_their_range_in_few_round_steps(low: float, high: float):
    found = ticks(low, high)
    assert found[0] <= low + 1e-12
    assert found[-1] >= high - 1e-12
    assert 2 <= len(found) <= 8


def test_losses_that_are_not_finite_are_left_out_of_a_chart():
    curve = Curve("g1", "a", "loss", ((1, 2.0), (2, float("nan")), (3, 1.0)))
    drawn = chart([curve], {"a": 1})
    assert drawn is not None
    assert "nan" not in drawn.lines[0].path
    assert chart([replace(curve, points=((1, float("inf")),))], {"a": 1}) is None
