"""What a job would use of the machines that there are, and what would keep it from running there.  Pure.

What its training takes in memory and time is measured, not told: `cohort estimate`.
"""

from collections.abc import Iterator, Sequence

from service.cluster_findings import Finding
from service.settings import Settings
from service.spec import JobSpec
from workers.data.locations import locations_of
from workers.data.roots import DataRoots
from workers.launching.nodes import NodeReport
from workers.launching.ray_launcher import workers_on_gpus

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
MAX_PLACES = 500
"""Places that are looked for on every machine; a job of a thousand tasks may name more."""


def places_of(spec: JobSpec, roots: DataRoots) -> dict[str, list[str]]:
    """Local path -> the tasks that read it, or `backbone`.  ValueError for one outside the roots."""
    found: dict[str, list[str]] = {}
    kind, _, folder = spec.backbone.model.partition(":")
    named = [("backbone", folder)] if kind == "local-dir" else []
    named += [(task.name, location) for task in spec.tasks for location in locations_of(task)]
    for name, location in named:
        path = roots.check(location)
        if "://" not in path:
            found.setdefault(path, []).append(name)
    return found


def check_spec(
    spec: JobSpec, settings: Settings, nodes: Sequence[NodeReport], places: dict[str, list[str]], parameters: int
) -> Iterator[Finding]:
    """Findings about one job on these machines.

    Args:
        places: what `places_of` gave, as far as the machines were asked for it.
        parameters: numbers in the backbone.
    """
    heard = [node for node in nodes if not node.error]
    yield _data(spec, heard, places)
    yield from _devices(spec, settings, heard)
    yield _memory(spec, settings, heard, parameters)
    if spec.search is not None and spec.search.searcher == "optuna":
        lacking = [node.label for node in heard if node.starts_drivers and not node.versions.get("optuna")]
        if lacking:
            fix = "Install it there (pip install optuna), or use searcher: random."
            yield Finding("search", "wrong", f"searcher=optuna, but Optuna is missing on {', '.join(lacking)}", fix)


def _data(spec: JobSpec, nodes: Sequence[NodeReport], places: dict[str, list[str]]) -> Finding:
    told = []
    for node in nodes:
        missing = [f"{path} ({', '.join(places[path][:3])})" for path in node.missing if path in places]
        told += [f"{node.label} has no {', '.join(missing)}"] if missing and node.computes else []
    if told:
        return Finding("places", "wrong", "; ".join(told), "Correct the path, or mount the data there.")
    looked = f"{len(places)} local place(s) are on every machine" if places else "nothing is read from a folder"
    return Finding("places", "ok", f"{len(spec.tasks)} task(s); {looked}")


def _devices(spec: JobSpec, settings: Settings, nodes: Sequence[NodeReport]) -> Iterator[Finding]:
    cpus, there = (sum(node.resources.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    gpus = max(there, settings.max_gpus or 0)
    wanted, each = spec.resources.device, spec.resources.devices_per_group
    if wanted == "cuda" and not gpus:
        yield Finding("devices", "wrong", "device=cuda, but there is no GPU", "Use auto, or add a machine with one.")
        return
    kind, present = ("GPU", gpus) if gpus and wanted != "cpu" else ("CPU", cpus)
    if each > present:
        fix = f"Use at most {max(1, int(present))}, or add machines."
        yield Finding("devices", "wrong", f"devices_per_group={each}, but there are {present:g} {kind}s", fix)
        return
    if each > 1:
        at_once = int(present // each)
    elif kind == "GPU":
        at_once = workers_on_gpus(present, settings.gpus_per_worker)
    else:
        at_once = int(max(1, min(settings.max_device_workers, present)))
    share = f"a share of {settings.gpus_per_worker:g} GPU" if kind == "GPU" and each == 1 else f"{each} {kind}(s)"
    grows = f", of which {there:g} are there now" if kind == "GPU" and gpus > there else ""
    yield Finding("devices", "ok", f"trains {at_once} pass(es) at a time, each on {share} of {present:g}{grows}")


def _memory(spec: JobSpec, settings: Settings, nodes: Sequence[NodeReport], parameters: int) -> Finding:
    backbone = spec.backbone
    needed = parameters * _BYTES[backbone.precision]
    told = f"{backbone.model} in {backbone.precision} takes {needed / 1e9:.2g} GB on every device, and training more"
    sizes = [size * settings.gpus_per_worker for node in nodes for _, size in node.gpus]
    if sizes and spec.resources.device != "cpu" and needed > min(sizes):
        fix = "Use precision: bf16, a smaller backbone, or larger shares of a GPU (COHORT_GPUS_PER_WORKER)."
        return Finding("backbone", "wrong", f"{told}; the smallest share of a GPU has {min(sizes) / 1e9:.2g} GB", fix)
    return Finding("backbone", "ok", f"{told} (`cohort estimate` measures it)")
