"""Logs as they are written."""

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.contextvars import bound_contextvars

from service import logs
from service.settings import Settings

TIME = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{6} ", re.MULTILINE)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in ("", *logs.ROOMS)}
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def written(home: Path, *, about: dict[str, str | int] | None = None, **settings: object) -> io.StringIO:
    """Where this process logs to from now on."""
    stream = io.StringIO()
    logs.configure(stream, Settings.model_validate({"home": home, **settings}), **(about or {}))
    return stream


def test_a_line_of_json_holds_what_it_is_about(tmp_path: Path) -> None:
    stream = written(tmp_path, about={"job": "job-1", "attempt": 2}, log_format="json")
    log = logging.getLogger("service.anything")
    with bound_contextvars(request_id="r-1"):
        log.warning("step %d of\nmany", 3, extra={"group": "g1"})
    log.debug("nobody asked")
    (line,) = stream.getvalue().splitlines()
    told = json.loads(line)
    assert told.pop("timestamp").endswith("Z")
    assert told == {
        "event": "step 3 of\nmany",
        "level": "warning",
        "logger": "service.anything",
        "job": "job-1",
        "attempt": 2,
        "group": "g1",
        "request_id": "r-1",
    }


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_credential_reaches_a_log(tmp_path: Path, log_format: str) -> None:
    key, password, secret, token = f"cohort_0123456789_{'ab' * 32}", 'p"ss/w%rd', "s3-secret", "ray-token"
    stream = written(
        tmp_path,
        log_format=log_format,
        database_url="postgresql://cohort:p%22ss%2Fw%25rd@db/cohort",
        storage_options={"key": "id", "client_kwargs": {"aws_secret": secret}},
        ray_token=token,
    )
    log = logging.getLogger("service.anything")
    log.error("%s %s %s", key, password, token, extra={"options": {"aws_secret": secret}})
    try:
        raise OSError(f"postgresql://cohort:p%22ss%2Fw%25rd@db refuses {token}")
    except OSError:
        log.exception("failed")
    text = stream.getvalue()
    assert "failed" in text and "refuses" in text and "cohort_0123456789_[hidden]" in text
    for hidden in ("ab" * 32, password, json.dumps(password)[1:-1], "p%22ss%2Fw%25rd", secret, token):
        assert hidden not in text


def test_a_log_reads_the_same_whichever_way_it_was_written(tmp_path: Path) -> None:
    texts = []
    for log_format in ("console", "json"):
        stream = written(tmp_path, about={"job": "job-1"}, log_format=log_format)
        log = logging.getLogger("service.anything")
        log.info("it begins")
        try:
            raise ValueError("no")
        except ValueError:
            log.exception("it failed")
        print("a line of somebody else's, {not ours}", file=stream)
        texts.append(TIME.sub("", logs.as_text(stream.getvalue())))
    assert texts[0] == texts[1]
    assert texts[0].startswith("INFO it begins job=job-1\nERROR it failed job=job-1\nTraceback")


def test_others_are_heard_from_warnings_on(tmp_path: Path) -> None:
    stream = written(tmp_path, log_level="debug")
    logging.getLogger("service.anything").debug("ours")
    logging.getLogger("sqlalchemy.engine").info("theirs")
    assert "ours" in stream.getvalue() and "theirs" not in stream.getvalue()
