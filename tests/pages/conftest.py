"""A service with its pages on loopback, and a real Chromium that has signed in."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from service.control_plane import ControlPlane
from service.roles import Role
from tests.api.conftest import served
from tests.pages.world import make_control_plane


@pytest.fixture
def control_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    control_plane = make_control_plane(tmp_path)
    yield control_plane
    control_plane.planner.close()


@pytest.fixture
def url(control_plane: ControlPlane) -> Iterator[str]:
    with served(control_plane) as url:
        yield url


@pytest.fixture
def open_page(browser: Browser, control_plane: ControlPlane, url: str) -> Iterator[Callable[..., Page]]:
    """`open_page(...)` gives a page of a browser that has signed in; the console must have said nothing in the end."""
    said: list[str] = []
    contexts = []

    def make(role: Role = Role.ADMIN, **options: object) -> Page:
        context = browser.new_context(base_url=url, **options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto("/sign-in")
        page.get_by_label("API key").fill(control_plane.store.create_key("a browser", role=role))
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{url}/")
        return page

    yield make
    for context in contexts:
        context.close()
    assert said == []
