"""The report in a real browser: it draws, says nothing to the console, and fits a laptop's window."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from service.report import render_report
from service.report_inputs import ReportInputs

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("num_tasks", "reviewed"), [(1, False), (9, False), (9, True), (60, True)])
def test_report_draws_and_fits(
    browser: Browser, job_of: Callable[..., ReportInputs], tmp_path: Path, num_tasks: int, reviewed: bool, scheme: str
):
    (tmp_path / "report.html").write_text(render_report(job_of(num_tasks, reviewed=reviewed)))
    page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    assert said == []
    assert asked == [(tmp_path / "report.html").as_uri()]
    assert page.locator("svg.heat .cell").count() == num_tasks**2
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    for table in page.locator(".scroll").all():
        assert table.evaluate("element => element.scrollWidth <= element.clientWidth"), table.inner_text()[:80]
    ink, paper = (
        [int(part) for part in re.findall(r"\d+", page.evaluate(f"getComputedStyle(document.body).{name}"))[:3]]
        for name in ("color", "backgroundColor")
    )
    assert (sum(ink) > sum(paper)) == (scheme == "dark")
    page.close()


def test_cells_of_opposite_sign_and_strength_differ_in_colour(
    browser: Browser, job_of: Callable[..., ReportInputs], tmp_path: Path
):
    (tmp_path / "report.html").write_text(render_report(job_of(9)))
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    fills = page.locator(".cell").evaluate_all(
        "cells => cells.map(cell => [cell.classList[1], getComputedStyle(cell).fill])"
    )
    positive, negative = ({fill for sign, fill in fills if sign == name} for name in ("pos", "neg"))
    assert len(positive) > 10
    assert len(negative) > 3
    assert not positive & negative
    page.close()


def test_the_square_shows_co_association_where_it_is_asked_to_without_a_script(
    browser: Browser, job_of: Callable[..., ReportInputs], tmp_path: Path
):
    (tmp_path / "report.html").write_text(render_report(job_of(9, reviewed=True)))
    page = browser.new_page(java_script_enabled=False)
    page.goto((tmp_path / "report.html").as_uri())
    one, other = page.locator(".heat .value.is-similarity").first, page.locator(".heat .value.is-together").first
    assert one.is_visible() and not other.is_visible()
    before = page.locator("svg.heat").screenshot()
    page.get_by_label("Co-association").check()
    assert other.is_visible() and not one.is_visible()
    assert page.get_by_text("always together").is_visible()
    assert page.locator("svg.heat").screenshot() != before
    page.get_by_label("Similarity").check()
    assert one.is_visible() and not other.is_visible()
    page.close()


def test_names_of_strangers_run_nothing(browser: Browser, named_job: Callable[..., ReportInputs], tmp_path: Path):
    evil = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
    inputs = named_job((f"a{evil}", "b"), job_name=f"job{evil}", class_names=(evil, "other"))
    (tmp_path / "report.html").write_text(render_report(inputs))
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert page.title().startswith("job<img")
    assert page.locator("img, script").count() == 0
    page.close()
