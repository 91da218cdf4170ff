"""How control planes and drivers write their logs: lines to read, or a JSON object a line; never with a credential.

Modules log with the standard library.  What a record is about (`job`, `attempt`, `group`, `request_id`) comes as
`extra`, from `structlog.contextvars`, or from the whole process.
"""

import json
import logging
import re
from collections.abc import Iterable, MutableMapping
from typing import Any, TextIO

import structlog

from service.settings import Settings

ROOMS = ("api", "grouping", "service", "workers")
"""Loggers of our own; others are heard from `warning` on."""
_KEY = re.compile(r"(cohort_[0-9a-f]{10}_)[0-9a-f]{64}")
_HIDDEN = "[hidden]"
_Event = MutableMapping[str, Any]


def configure(stream: TextIO, settings: Settings, **about: str | int) -> None:
    """From now on this process logs to `stream`, as the settings say; `about` goes with every record.  Repeatable."""
    as_json = settings.log_format == "json"
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.ExtraAdder(),
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso" if as_json else "%Y-%m-%d %H:%M:%S,%f", utc=True),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            lambda _logger, _method, event: {**about, **_ours(event)},
            structlog.processors.JSONRenderer(default=str) if as_json else _to_read,
            _Hiding(settings.secrets),
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for room in ROOMS:
        logging.getLogger(room).setLevel(settings.log_level.upper())


def as_text(log: str) -> str:
    """A log as it is to be read, whichever way each of its lines was written."""
    return "\n".join(map(_line_as_text, log.splitlines()))


def _line_as_text(line: str) -> str:
    try:
        told = json.loads(line)
        told["timestamp"] = told["timestamp"].translate({ord("T"): " ", ord("."): ",", ord("Z"): None})
        return _to_read(None, "", told)
    except (ValueError, TypeError, KeyError, AttributeError):  # it is none of ours
        return line


def _ours(event: _Event) -> _Event:
    """Without what libraries hang onto every record for themselves: Ray, a time."""
    return {name: value for name, value in event.items() if not name.startswith("_")}


def _to_read(_logger: Any, _method: str, event: _Event) -> str:
    """Time, level and text, then what it is about as `name=value`."""
    told = dict(event)
    begin = f"{told.pop('timestamp')} {told.pop('level').upper()} {told.pop('event')}"
    exception = told.pop("exception", None)
    told.pop("logger", None)
    about = "".join(f" {name}={value}" for name, value in told.items())
    return f"{begin}{about}" + (f"\n{exception}" if exception else "")


class _Hiding:
    """The last processor: hides credentials in what is about to be written."""

    def __init__(self, secrets: Iterable[str]) -> None:
        written = {form for secret in secrets for form in (secret, json.dumps(secret)[1:-1])}
        longest_first = sorted(written, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, _logger: Any, _method: str, line: Any) -> str:
        line = _KEY.sub(rf"\1{_HIDDEN}", line)
        return line if self._secrets is None else self._secrets.sub(_HIDDEN, line)
