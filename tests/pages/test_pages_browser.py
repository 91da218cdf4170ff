"""The pages in a real Chromium: buttons do what they say, what is live arrives, large jobs stay usable, nothing is said
to the console."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from service.control_plane import ControlPlane
from service.roles import Role
from service.states import Desired, JobState
from tests.pages.world import Played, finished, names_of, training, waiting, write_images

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
NAMES = ("art", "clipart", "product", "photo", "quickdraw", "sketch")
JOB_PAGES = ("Groups", "Tasks", "Curves", "Similarity", "Plans", "Data", "Events", "Logs", "Files", "Description")
SOON = 60_000


@pytest.fixture(autouse=True)
def patience() -> None:
    expect.set_options(timeout=SOON)


def test_a_person_signs_in_with_the_keyboard_alone_and_out_again(open_page: OpenPage) -> None:
    page = open_page()
    page.keyboard.press("Tab")
    expect(page.get_by_text("To the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.get_by_role("button", name="Sign out").press("Enter")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(page.get_by_label("API key")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_fits_its_window_and_can_be_read(
    open_page: OpenPage, control_plane: ControlPlane, width: int, scheme: str
) -> None:
    write_images(control_plane, NAMES)
    job = finished(control_plane, NAMES)
    page = open_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    for path in ("/", "/submit", "/submit?as=yaml", f"/jobs/{job.id}", f"/jobs/{job.id}/data/art"):
        page.goto(path)
        check_looks(page, width, scheme)
    for name in JOB_PAGES:
        page.get_by_role("navigation", name="Job").get_by_role("link", name=name).click()
        page.wait_for_load_state()
        check_looks(page, width, scheme)


def check_looks(page: Page, width: int, scheme: str) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= width, page.url
    assert page.evaluate(_CONTRASTS) == [], page.url
    assert page.locator("h1").count() == 1
    unnamed = "input:not([type=hidden]):not([hidden]), select, textarea, button"
    assert page.locator(unnamed).evaluate_all(_UNNAMED) == [], page.url
    ids = page.locator("[id]").evaluate_all("elements => elements.map(element => element.id)")
    assert len(ids) == len(set(ids)), page.url


_UNNAMED = """elements => elements.filter(e => !(e.labels && e.labels.length) && !e.getAttribute('aria-label')
    && !(e.tagName === 'BUTTON' && e.textContent.trim())).map(e => e.outerHTML)"""
_CONTRASTS = """() => {  // visible text whose contrast with what is behind it is below 4.5 (WCAG AA)
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data; };
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = [...c].slice(0, 3).map(v => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => {
    for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] > 250) return c; }
    return rgb('white'); };
  const found = [];
  for (const e of document.querySelectorAll('body *:not(svg *):not(option):not(progress)')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.matches(':disabled, .skip')) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) found.push([e.outerHTML.slice(0, 90), ratio.toFixed(2)]);
  }
  return found;
}"""


def test_what_happens_to_a_job_arrives_on_its_pages(open_page: OpenPage, control_plane: ControlPlane) -> None:
    job = training(control_plane, NAMES, step=100)
    store = control_plane.store
    overview, curves, events, jobs = (open_page() for _ in range(4))
    overview.goto(f"/jobs/{job.id}")
    curves.goto(f"/jobs/{job.id}/curves?group=g1")
    events.goto(f"/jobs/{job.id}/events")
    expect(overview.get_by_role("row", name=re.compile("^g1"))).to_contain_text("100 of 300")
    before = curves.locator(".chart path.line").first.get_attribute("d")

    store.update_group(job.id, "g1", attempt=job.attempt, step=250)
    expect(overview.get_by_role("row", name=re.compile("^g1"))).to_contain_text("250 of 300")
    group = next(group for group in store.groups(job.id) if group.id == "g1")
    job.add_points("g1", group.tasks, range(105, 251, 5))
    expect(curves.locator(".chart path.line").first).not_to_have_attribute("d", before or "")
    store.add_event(job.id, "told", "Something was told.", attempt=job.attempt)
    expect(events.locator("ol.events li").first).to_contain_text("Something was told.")
    expect(jobs.get_by_role("row", name=re.compile(job.id))).to_contain_text("training")
    job.move(JobState.PUBLISHING)
    job.move(JobState.SUCCEEDED)
    expect(jobs.get_by_role("row", name=re.compile(job.id))).to_contain_text("succeeded")
    expect(overview.locator("#head .state")).to_have_text("succeeded")
    expect(overview.get_by_role("button", name="Archive")).to_be_visible()
    expect(overview.get_by_role("button", name="Pause")).to_have_count(0)


def test_a_page_that_nobody_sees_is_quiet_and_catches_up(open_page: OpenPage, control_plane: ControlPlane) -> None:
    job = training(control_plane, NAMES, step=100)
    page = open_page()
    with page.expect_request("**/live?*"):
        page.goto(f"/jobs/{job.id}")
    _hide(page, True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    control_plane.store.update_group(job.id, "g1", attempt=job.attempt, step=200)
    page.wait_for_function("() => new Promise(done => setTimeout(() => done(true), 1500))")
    assert asked == []
    _hide(page, False)
    expect(page.get_by_role("row", name=re.compile("^g1"))).to_contain_text("200 of 300")


def _hide(page: Page, hidden: bool) -> None:
    page.evaluate(
        "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        hidden,
    )


def test_every_button_of_a_job_does_what_it_says(open_page: OpenPage, control_plane: ControlPlane) -> None:
    store = control_plane.store
    job = Played(control_plane, NAMES)
    page = open_page()
    page.goto(f"/jobs/{job.id}")

    def click(name: str, *, open: str | None = None) -> None:
        if open is not None:
            page.locator("summary", has_text=open).click()
        with page.expect_navigation():
            page.get_by_role("button", name=name, exact=True).click()

    click("Pause")
    assert store.get_job(job.id).desired == Desired.PAUSE
    click("Resume")
    assert store.get_job(job.id).desired == Desired.RUN
    page.locator("summary", has_text="Priority").click()
    page.get_by_label("Jobs of a higher priority").fill("5")
    click("Set")
    assert store.get_job(job.id).priority == 5
    click("Cancel after a last checkpoint", open="Cancel…")
    assert store.get_job(job.id).desired == Desired.CANCEL
    click("Cancel now", open="Cancel…")
    assert store.get_job(job.id).at_once
    store.move(job.id, JobState.CANCELLED, attempt=None)
    expect(page.locator("#head .state")).to_have_text("cancelled")
    click("Archive")
    assert store.get_job(job.id).archived_at is not None
    click("Unarchive")
    assert store.get_job(job.id).archived_at is None
    click("Delete this job", open="Delete…")
    assert store.get_job(job.id).deleted_at is not None
    click("Restore")
    assert store.get_job(job.id).deleted_at is None
    click("Retry what is missing")
    retry = page.url.rpartition("/")[2]
    assert store.get_job(retry).retry_of == job.id
    page.goto(f"/jobs/{job.id}")
    page.locator("summary", has_text="Clone").click()
    page.get_by_label("Name").fill("another")
    page.get_by_label("What is different").fill("training: {epochs: 7}")
    click("Submit the clone")
    expect(page.get_by_role("heading", name="another")).to_be_visible()
    clone = store.get_job(page.url.rpartition("/")[2])
    assert clone.spec.training.epochs == 7


def test_a_form_is_checked_while_it_is_written_and_becomes_a_job(
    open_page: OpenPage, control_plane: ControlPlane
) -> None:
    write_images(control_plane, ("art", "photo"))
    page = open_page(Role.SUBMITTER)
    page.get_by_role("link", name="Submit a job").click()
    page.get_by_label("Name").first.fill("not a name")
    expect(page.locator("#fault-name")).to_contain_text("given 'not a name'")
    page.get_by_label("Name").first.fill("from-the-form")
    page.locator("#tasks-0-name").fill("art")
    page.locator("#tasks-0-source-uri").fill("art")
    expect(page.locator("#checked")).to_contain_text("as it should be")
    expect(page.locator("#fault-name")).to_be_empty()
    page.get_by_role("button", name="Add a task").click()
    expect(page.locator("#tasks-0-name")).to_have_value("art")
    page.locator("#tasks-1-name").fill("photo")
    page.locator("#tasks-1-source-uri").fill("nowhere")
    page.get_by_role("button", name="Look at the data").click()
    expect(page.locator("#looked")).to_contain_text("is no folder")
    page.locator("#tasks-1-source-uri").fill("photo")
    page.get_by_role("button", name="Look at the data").click()
    expect(page.locator("#looked table.rows")).to_contain_text("blue, green, red")
    page.get_by_role("button", name="As YAML").click()
    expect(page.get_by_label("Job description")).to_have_value(re.compile("name: from-the-form"))
    page.get_by_role("button", name="Submit", exact=True).click()
    expect(page.get_by_role("heading", name="from-the-form")).to_be_visible()
    job = control_plane.store.get_job(page.url.rpartition("/")[2])
    assert [task.name for task in job.spec.tasks] == ["art", "photo"]


def test_an_estimate_appears_beside_the_description_once_it_is_there(
    open_page: OpenPage, control_plane: ControlPlane
) -> None:
    page = open_page()
    page.goto("/submit?as=yaml")
    page.get_by_role("button", name="Estimate").click()
    expect(page.locator("#estimated .state")).to_have_text("queued")
    (job,), _ = control_plane.store.list_jobs(purpose="estimate")
    control_plane.store.move(job.id, JobState.FAILED, attempt=None, reason="There is no memory for that.")
    expect(page.locator("#estimated")).to_contain_text("There is no memory for that.")


def test_a_person_compares_plans_and_approves_one(open_page: OpenPage, control_plane: ControlPlane) -> None:
    job = waiting(control_plane, NAMES)
    page = open_page()
    page.goto(f"/jobs/{job.id}")
    expect(page.get_by_text("waits for a person")).to_be_visible()
    page.get_by_role("link", name="ask for others").click()
    page.get_by_label("Number of groups").fill("3")
    page.get_by_role("button", name="Ask for it").click()
    expect(page.get_by_role("heading", name="Plan 1")).to_be_visible()
    page.get_by_role("link", name="Plans", exact=True).click()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("adjusted Rand index").first).to_be_visible()
    page.locator("#approve-1").click()
    expect(page.get_by_text("waits for a person")).to_have_count(0)
    assert [plan.approved for plan in control_plane.store.plans(job.id)] == [False, True]


def test_the_heat_map_shows_every_pair_its_tree_and_its_confidence(
    open_page: OpenPage, control_plane: ControlPlane
) -> None:
    job = finished(control_plane, NAMES)
    page = open_page()
    page.goto(f"/jobs/{job.id}/similarity")
    assert page.locator(".cells rect").count() == len(NAMES) ** 2
    assert (page.locator("path.tree").get_attribute("d") or "").count("M") == len(NAMES) - 1
    assert page.locator(".heat .box").count() == 2
    texts = page.locator(".cells title").all_text_contents()
    assert any("95 % of the resamples" in text for text in texts)
    page.get_by_role("link", name="Co-association").click()
    expect(page.get_by_text("always together")).to_be_visible()
    page.get_by_role("combobox", name="Task").select_option("art")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("region", name="Neighbours of art").get_by_role("row")).to_have_count(len(NAMES))


def test_images_of_a_task_are_drawn_and_the_bad_ones_are_named(
    open_page: OpenPage, control_plane: ControlPlane
) -> None:
    write_images(control_plane, NAMES)
    job = finished(control_plane, NAMES)
    page = open_page()
    page.goto(f"/jobs/{job.id}/data")
    expect(page.get_by_text("1 task has images that cannot be read")).to_be_visible()
    page.get_by_role("row", name=re.compile("^art")).get_by_role("link").click()
    expect(page.get_by_text("red/broken.png")).to_be_visible()
    page.wait_for_function("() => [...document.images].every(image => image.complete)")
    drawn = page.locator(".thumbs img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert drawn == [24, 24, 24]
    expect(page.get_by_role("row", name=re.compile("^green"))).to_contain_text("4")


@pytest.mark.slow
def test_a_job_of_500_tasks_in_50_groups_stays_usable(open_page: OpenPage, control_plane: ControlPlane) -> None:
    names = names_of(500)
    job = training(control_plane, names, num_groups=50, step=30)
    page = open_page()
    for path, most in (("", 60), ("/groups", 150), ("/tasks", 150), ("/curves", 120), ("/similarity", 600)):
        answer = page.goto(f"/jobs/{job.id}{path}")
        assert answer is not None and answer.ok
        assert len(answer.body()) < 1000 * most, path
        assert page.evaluate("document.querySelectorAll('*').length") < 10_000, path
    assert page.locator(".cells rect").count() == 50**2
    expect(page.locator("img.map")).to_be_attached()
    page.goto(f"/jobs/{job.id}/tasks")
    assert page.locator("tbody tr").count() == 100
    page.get_by_role("textbox", name="Task").fill("task-49")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("tbody tr")).to_have_count(10)
    page.goto(f"/jobs/{job.id}")
    control_plane.store.update_group(job.id, "g50", attempt=job.attempt, step=77)
    expect(page.get_by_role("row", name=re.compile("^g50"))).to_contain_text("77 of 300")


def test_without_scripts_everything_but_what_is_live_works(open_page: OpenPage, control_plane: ControlPlane) -> None:
    job = Played(control_plane, NAMES)
    page = open_page(java_script_enabled=False)
    page.goto(f"/jobs/{job.id}")
    page.get_by_role("button", name="Pause").click()
    assert control_plane.store.get_job(job.id).desired == Desired.PAUSE
    page.goto("/submit?as=yaml")
    page.get_by_role("button", name="Submit", exact=True).click()
    expect(page.get_by_role("heading", name="my-job")).to_be_visible()
