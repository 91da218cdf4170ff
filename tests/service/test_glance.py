"""Laws of looking at what may not answer."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service import glance
from service.glance import Glance


def test_every_look_is_a_fresh_one_unless_another_is_under_way():
    found: list[str | None] = [None, "It is full.", None]
    look = Glance("storage", lambda: found.pop(0))
    assert [look(), look(), look()] == [True, "It is full.", True]


def test_one_look_that_hangs_holds_up_nobody_and_counts_as_no_answer_after_a_while(monkeypatch: pytest.MonkeyPatch):
    begun, answers, looks = threading.Event(), threading.Event(), []

    def hanging() -> str | None:
        looks.append(1)
        begun.set()
        answers.wait(30)
        return "It is full."

    look = Glance("storage", hanging)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(look)
        assert begun.wait(10)
        assert [look() for _ in range(100)] == [True] * 100, "as it was found before"
        monkeypatch.setattr(glance, "PATIENCE_SECONDS", 0.0)
        assert "storage has not answered for" in str(look())
        answers.set()
        assert first.result(10) == "It is full."
    assert len(looks) == 1
