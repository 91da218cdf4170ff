"""What the doctor sees of the machines that jobs run on: a cluster, the Ray of a service that runs here, or this
machine."""

import importlib
import json
import os
import socket
from typing import Any

from service.cluster_check import look_now
from service.cluster_findings import Finding, Look
from service.cluster_look import OPTIONAL
from service.errors import RayUnavailable
from service.ray_head import RayHead
from service.ray_jobs import RayJobs
from service.roles import DEFAULT_TENANT
from service.settings import Settings
from service.spec import JobSpec, parse_spec
from service.spec_check import MAX_PLACES, check_spec, places_of
from workers.launching.nodes import NodeReport, Question, answer


def examine(settings: Settings, description: bytes | None) -> list[Finding]:
    """What the machines offer and what is wrong there; with a job description, what the job would use of them."""
    spec: JobSpec | None = None
    places: dict[str, list[str]] = {}
    findings: list[Finding] = []
    if description is not None:
        try:
            spec = parse_spec(description)
            places = places_of(spec, settings.roots_of(DEFAULT_TENANT))
        except ValueError as error:
            spec = None
            findings.append(Finding("job", "wrong", str(error), "The service would refuse it: correct it."))
    if len(places) > MAX_PLACES:
        told = f"{len(places)} places are named, and the first {MAX_PLACES} of them are looked for"
        findings.append(Finding("places", "warning", told, "The job itself looks for all."))
        places = dict(list(places.items())[:MAX_PLACES])
    look = _offer(settings, list(places))
    findings = [*look.findings, *findings]
    if spec is not None and look.nodes:
        shape = importlib.import_module("workers.clip.shape").backbone_shape(spec.backbone.model)
        findings += check_spec(spec, settings, look.nodes, places, shape.num_parameters)
    return findings


def _offer(settings: Settings, paths: list[str]) -> Look:
    try:
        if settings.ray_address is not None:
            token = settings.ray_token
            cluster = RayJobs(
                settings.ray_address,
                token.get_secret_value() if token else None,
                python=settings.ray_python,
                resources=settings.driver_resources,
            )
            return look_now(cluster, settings, *paths)
        head = RayHead(settings)
        if address := head.alive_at():
            running = Settings.model_validate(json.loads(settings.running_file.read_text()))
            return look_now(RayJobs(address, head.token), running, *paths)
    except RayUnavailable as error:
        fix = "Start it, or see to COHORT_RAY_ADDRESS and COHORT_RAY_TOKEN."
        return Look((Finding("cluster", "wrong", str(error), fix),))
    return _here(settings, paths)


def _here(settings: Settings, paths: list[str]) -> Look:
    """This machine, whose Ray `cohort up` will start; it is the other looks' to say what is wrong here."""
    torch = importlib.import_module("torch")
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    question = Question(distributions=OPTIONAL, storage="", mark=("", ""), cache=str(settings.home), paths=tuple(paths))
    told: dict[str, Any] = answer(question, has_gpus=False)
    told["gpus"] = tuple((gpu.name, gpu.total_memory) for gpu in gpus)
    node = NodeReport(
        id="",
        name=socket.gethostname(),
        ip="here",
        starts_drivers=True,
        resources={"CPU": float(settings.num_cpus or os.cpu_count() or 1), "GPU": float(len(gpus))},
        **told,
    )
    found = "none runs; `cohort up` starts a Ray of this machine's"
    return Look((Finding("cluster", "ok", found),), (node,))
