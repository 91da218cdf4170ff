"""The unit for systemd: it stops the service in order, and runs it as nobody special."""

import configparser

from service.settings import Settings
from tests.deploy.rendered import DEPLOY

OTHER_STOPS = 30
"""Seconds, at most: open connections, the coordinator's last look, Ray's processes."""


def service() -> configparser.SectionProxy:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read_string((DEPLOY / "cohort.service").read_text())
    return unit["Service"]


def test_only_the_service_is_asked_to_stop_and_what_it_started_is_its_own_to_stop() -> None:
    assert (service()["KillSignal"], service()["KillMode"]) == ("SIGINT", "mixed")


def test_systemd_waits_until_jobs_have_written_checkpoints_and_ray_has_ended() -> None:
    assert service().getint("TimeoutStopSec") >= Settings.model_fields["drain_seconds"].default + OTHER_STOPS


def test_the_service_is_a_user_of_its_own_and_needs_no_file_of_settings() -> None:
    assert service()["User"] not in ("root", "0")
    assert service()["EnvironmentFile"].startswith("-")
