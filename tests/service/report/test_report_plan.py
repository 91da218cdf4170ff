"""The report says why every task is where it is, how sure the groups are, and what gains and trials allow to say."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from service.heat_map import heat_map, shown_order
from service.plan_views import similarity, task_reasons
from service.report import render_report
from service.report_inputs import ReportInputs
from service.report_plan import MAX_DRAWN, agreement_grid, drawn_reasons, least_sure
from service.scores import gain_sentences
from service.wire_why import Agreement

JobOf = Callable[..., ReportInputs]


class Page(HTMLParser):
    """The words, the classes in use, and header cells by table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.classes: list[str] = []
        self.tables: list[int] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.classes += (dict(attrs).get("class") or "").split()
        if tag == "table":
            self.tables.append(0)
        if tag == "th":
            self.tables[-1] += 1

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_a_reviewed_plan_tells_verdict_confidence_solver_second_opinion_and_affinities(job_of: JobOf):
    inputs = job_of(9, reviewed=True)
    review, verdict = inputs.review, inputs.plan.verdict
    assert review is not None and review.confidence is not None and verdict is not None
    text = Page(render_report(inputs)).text
    for words in (
        verdict.sentence,
        f"Confidence: {review.confidence.word}",
        review.confidence.sentence,
        f"bootstrap ARI {review.confidence.rand_index:.2f}",
        f"PAC {review.confidence.ambiguous:.2f}",
        f"Found by: {inputs.plan.solver}",
        "Second opinion: exact",
        "How the affinities agree",
    ):
        assert words in text


def test_a_plan_without_a_review_makes_none_up(job_of: JobOf):
    page = Page(render_report(job_of(9)))
    assert "Verdict of the gradients" in page.text
    for words in (
        "Confidence",
        "affinities",
        "Kept its group",
        "Co-association",
        "short training runs",
        "Plans of this",
    ):
        assert words not in page.text
    text = Page(render_report(job_of(3, origin="all"))).text
    assert "How sure" not in text and "Layers and modality" not in text


def test_a_review_that_had_nothing_to_resample_says_so(job_of: JobOf):
    inputs = job_of(9, reviewed=True)
    assert inputs.review is not None
    unsure = replace(inputs, review=inputs.review.model_copy(update={"confidence": None}))
    text = Page(render_report(unsure)).text
    assert "Confidence: not known" in text and "Kept its group" not in text


def test_every_task_has_its_neighbours_with_intervals_its_margin_its_layers_its_trend_and_a_sentence(job_of: JobOf):
    inputs = job_of(9, reviewed=True)
    page = Page(render_report(inputs))
    for reason in inputs.plan.tasks:
        near = reason.nearest[0]
        assert near.low is not None and near.high is not None
        said = f"{near.task} {near.similarity:+.2f} {near.low:+.2f} to {near.high:+.2f}".replace("-0.", "−0.")
        assert said.replace("+", "") in page.text.replace("+", "")
        assert f"over {reason.next_group}" in page.text
        assert reason.sentence in page.text
    assert page.classes.count("layers") == page.classes.count("spark") == 9


def test_a_mean_gain_that_spans_zero_is_said_to_and_marked(job_of: JobOf):
    inputs = job_of(9, reviewed=True)
    page = Page(render_report(inputs))
    for sentence in gain_sentences(inputs.gains, num_groups=len(inputs.plan.groups)):
        assert sentence in page.text
    none_told = sum(gain.spans_zero for gain in inputs.gains)
    assert none_told > 0
    assert page.text.count(", spans 0") >= none_told


def test_the_gain_of_another_figure_than_the_score_is_told_beside_it(job_of: JobOf):
    inputs = job_of(1, reviewed=True)
    (score,) = inputs.scores
    metric = "mean_average_precision"
    gains = [gain.model_copy(update={"metric": "image_average_precision"}) for gain in inputs.gains]
    told = replace(inputs, scores=[replace(score, metric=metric, grouped=0.001)], gains=gains)
    assert "per image" in Page(render_report(told)).text


def test_trials_tell_what_moved_and_why_and_whether_similarities_were_predictive(job_of: JobOf):
    inputs = job_of(9, reviewed=True)
    assert inputs.arbitration is not None and inputs.arbitration.actions
    text = Page(render_report(inputs)).text
    for words in (inputs.arbitration.sentence, inputs.arbitration.power.sentence):
        assert words in text
    for action in inputs.arbitration.actions:
        assert f"{action.kind} {action.sentence}" in text


def test_plans_are_listed_where_there_are_several_and_the_trained_one_is_named(job_of: JobOf):
    inputs = job_of(9, reviewed=True)
    text = Page(render_report(inputs)).text
    for row in inputs.history:
        assert f"{row.outline.summary} {'trained' if row.approved else '–'} " in text


def test_every_table_has_headers(job_of: JobOf):
    assert all(Page(render_report(job_of(9, reviewed=True))).tables)


def test_names_of_strangers_stay_words_in_every_section(job_of: JobOf):
    inputs = job_of(3, reviewed=True)
    evil = "<script>alert(1)</script>"
    arbitration = inputs.arbitration
    assert arbitration is not None
    row = inputs.history[0]
    told = replace(
        inputs,
        arbitration=arbitration.model_copy(update={"sentence": f"{evil} stands"}),
        history=[replace(row, outline=row.outline.model_copy(update={"summary": evil})), inputs.history[1]],
        plan=inputs.plan.model_copy(
            update={"tasks": [t.model_copy(update={"sentence": evil}) for t in inputs.plan.tasks]}
        ),
    )
    html = render_report(told)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 5


def test_cells_tell_intervals_and_co_association_and_are_drawn_once(job_of: JobOf):
    inputs = job_of(9, reviewed=True)
    assert inputs.review is not None and inputs.review.confidence is not None
    sure, plan = inputs.review.confidence, inputs.plan
    heat = heat_map(plan, similarity(plan.model_dump(), inputs.review.model_dump()))
    assert heat is not None and heat.has_together
    order, at = shown_order(plan), {task: i for i, task in enumerate(sure.task_names)}
    for number, cell in enumerate(heat.cells):
        row, column = (at[order[i]] for i in divmod(number, 9))
        assert cell.together == round(100 * sure.together[row][column])
        if row != column:
            ends = (f"{value:+.2f}".replace("-", "−") for value in (sure.low[row][column], sure.high[row][column]))
            low, high = ("0.00" if end.strip("+−0.") == "" else end for end in ends)
            assert f"95 % of the resamples {low} to {high}; together in {cell.together} % of them" in cell.title
    page = Page(render_report(inputs))
    assert page.classes.count("cell") == 81


def test_more_tasks_than_can_be_drawn_have_the_same_words_without_drawings(job_of: JobOf):
    plan = job_of(9).plan
    (first, *_) = task_reasons(plan.model_dump(), None)
    many = [first.model_copy(update={"task": f"t{i}"}) for i in range(MAX_DRAWN + 1)]
    drawn = drawn_reasons(many, [reason.task for reason in many])
    assert len(drawn) == MAX_DRAWN + 1
    assert all(reason.layers is None and reason.spark is None for reason in drawn)
    few = drawn_reasons(many[:9], [reason.task for reason in many[:9]])
    assert all(reason.layers and reason.spark for reason in few)


def test_a_layer_is_drawn_up_where_it_agrees_and_down_where_it_conflicts(job_of: JobOf):
    (first, *_) = task_reasons(job_of(9).plan.model_dump(), None)
    assert first.why is not None
    for reason in drawn_reasons([first], [first.task]):
        assert reason.layers is not None
        drawn = sum(row.agree.count("z") + row.conflict.count("z") for row in reason.layers.bars)
        down = sum(row.conflict.count("z") for row in reason.layers.bars)
        assert drawn == len(first.why.blocks)
        assert down == sum((block.own or 0) < 0 for block in first.why.blocks)


def test_the_least_sure_tasks_come_first_and_sure_ones_are_not_named(job_of: JobOf):
    (first, *_) = task_reasons(job_of(9).plan.model_dump(), None)
    margins = {"a": 0.9, "b": 0.1, "c": -0.2, "d": None}
    reasons = [first.model_copy(update={"task": task, "together_margin": value}) for task, value in margins.items()]
    assert [reason.task for reason in least_sure(reasons)] == ["c", "b"]


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c")])
def test_the_grid_of_affinities_knows_every_pair_both_ways_round(names: tuple[str, ...]):
    pairs = [
        Agreement(first=a, second=b, spearman=0.5, rand_index=0.5) for i, a in enumerate(names) for b in names[i + 1 :]
    ]
    grid = agreement_grid(pairs)
    assert grid is not None and grid.names == names
    assert set(grid.pairs) == {(a, b) for a in names for b in names if a != b}
    assert agreement_grid([]) is None
