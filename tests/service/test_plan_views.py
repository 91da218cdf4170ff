"""A plan and its review as messages: nothing is lost, nothing is made up, and everything is said in words as well."""

import io

import numpy as np
import pytest
from rich.console import Console, RenderableType

from grouping.config import GroupingConfig
from grouping.measurement import Measurement, TaskFacts, measure
from grouping.plan import Plan, plan_from, trivial_plan
from grouping.review import review
from service import show, show_why, wire
from service.plan_views import plan_facts, similarity, task_reasons
from service.wire_gains import Gain

NAMES = [f"t{i}" for i in range(6)]


@pytest.fixture(scope="module")
def measured() -> tuple[np.ndarray, Measurement]:
    """Two families of two layers each, and a task that has no gradient."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(2, 40))
    gradients = np.stack([centres[i % 2] for i in range(6)]) + 0.5 * rng.normal(size=(3, 4, 6, 40))
    gradients[:, :, 5] = 0.0
    facts = TaskFacts(block_names=["text.0", "text.1", "image.0", "image.1"], block_offsets=np.arange(0, 41, 10))
    return gradients, measure(gradients, NAMES, facts)


@pytest.fixture(scope="module")
def plan(measured: tuple[np.ndarray, Measurement]) -> Plan:
    return plan_from(measured[1], GroupingConfig())


@pytest.fixture(scope="module")
def found(measured: tuple[np.ndarray, Measurement], plan: Plan) -> dict:
    return review(*measured, plan, resamples=8).model_dump(mode="json")


def json_of(plan: Plan) -> dict:
    return plan.model_dump(mode="json")


def drawn(*parts: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=160)
    for part in parts:
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_parts_of_a_task_add_up_and_modalities_are_their_sums(plan: Plan) -> None:
    for reason, task in zip(task_reasons(json_of(plan), None), plan.tasks, strict=True):
        assert (reason.why is None) == (task.why is None)
        if reason.why is None:
            continue
        own = sum(block.own or 0.0 for block in reason.why.blocks)
        assert sum(reason.why.modality.values()) == pytest.approx(own)
        assert np.mean(reason.why.trend) == pytest.approx(own)
        assert reason.why.words.startswith("With its group: text ")


def test_intervals_margins_and_next_groups_reach_the_outside(plan: Plan, found: dict) -> None:
    reasons = task_reasons(json_of(plan), found)
    together = {entry["task"]: entry["together"] for entry in found["confidence"]["tasks"]}
    for reason, task in zip(reasons, plan.tasks, strict=True):
        assert (reason.next_group, reason.margin) == (task.next_group, task.margin)
        assert [(n.low, n.high) for n in reason.nearest] == [(n.low, n.high) for n in task.nearest]
        assert reason.together == together.get(reason.task)
    assert reasons[5].together is None


def test_matrices_of_the_review_follow_the_plans_tasks(plan: Plan, found: dict) -> None:
    told = similarity(json_of(plan), found)
    assert told.together is not None and told.similarity is not None
    at = {name: index for index, name in enumerate(found["confidence"]["task_names"])}
    for a, row in enumerate(told.together):
        for b, value in enumerate(row):
            known = NAMES[a] in at and NAMES[b] in at
            expected = found["confidence"]["together"][at[NAMES[a]]][at[NAMES[b]]] if known else None
            assert value == expected
            assert (told.similarity[a][b] is None) == (not known)


def test_facts_tell_the_verdict_the_solver_and_the_review(plan: Plan, found: dict) -> None:
    facts = plan_facts(plan.outline(), json_of(plan), found, None, number=3, approved=True)
    assert plan.verdict is not None and facts.verdict is not None and facts.confidence is not None
    assert (facts.number, facts.solver, facts.gap) == (3, plan.solver, plan.gap)
    assert facts.verdict.sentence == plan.verdict.sentence
    assert facts.confidence.word == found["confidence"]["word"]
    assert len(facts.agreements) == len(found["agreements"])
    text = " ".join(drawn(show_why.plan_lines(facts), show_why.agreements_table(facts)).split())
    for words in (plan.verdict.sentence, facts.confidence.word, "cross_fit", "second opinion", f"{plan.solver}"):
        assert words in text


def test_a_plan_of_an_older_version_leaves_out_what_was_not_measured(plan: Plan) -> None:
    old = json_of(plan)
    for name in ("verdict", "solver", "gap"):
        del old[name]
    for task in old["tasks"]:
        del task["why"], task["next_group"]
        for near in task["nearest"]:
            del near["low"], near["high"]
    facts = plan_facts(plan.outline(), old, None, None, number=0, approved=True)
    assert (facts.verdict, facts.confidence, facts.agreements, facts.reviewed) == (None, None, [], False)
    text = drawn(*(show_why.reason_lines(reason) for reason in task_reasons(old, None)))
    assert plan.tasks[0].nearest[0].task in text
    for words in ("trend", "where", "held", "margin"):
        assert words not in text


def test_a_job_that_measured_nothing_waits_for_no_review() -> None:
    plan = trivial_plan(["a", "b"], "all")
    facts = plan_facts(plan.outline(), json_of(plan), None, None, number=0, approved=True)
    assert "confidence" not in drawn(show_why.plan_lines(facts))


def test_a_tasks_lines_hold_its_sentence_neighbours_margin_layers_and_trend(plan: Plan, found: dict) -> None:
    reason = task_reasons(json_of(plan), found)[0]
    assert reason.why is not None and reason.next_group is not None
    text = " ".join(drawn(show_why.reason_lines(reason)).split())
    near = reason.nearest[0]
    assert near.low is not None
    for words in (reason.sentence, f"{near.task} {near.similarity:+.2f} ({near.low:+.2f} to", reason.why.words):
        assert words in text
    assert f"over {reason.next_group}, the next group" in text
    assert reason.why.trend_words in text


def test_a_matrix_with_a_task_without_gradient_can_be_drawn(plan: Plan, found: dict) -> None:
    assert "?" in drawn(show.SimilarityTable(similarity(json_of(plan), found)))


def test_results_show_gains_only_where_there_are_some() -> None:
    row = wire.Comparison(task="a", metric="accuracy", group="g1", zero_shot=0.5, alone=None, all=None, grouped=0.75)
    plain = wire.Results(results=[], table=[row])
    assert "Gain of the groups" not in drawn(*show.results_whole(plain))
    gain = Gain(
        task="a", against="zero_shot", metric="accuracy", mean=0.25, low=-0.1, high=0.6, num_tasks=1, num_images=9
    )
    text = " ".join(drawn(*show.results_whole(plain.model_copy(update={"gains": [gain]}))).split())
    assert "over zero-shot" in text and "+25.0 (−10.0 to +60.0) spans 0" in text
    assert "it spans 0, so it cannot be told from no gain." in text
