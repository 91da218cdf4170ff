"""Stage `search`: settings are tried on validation images, and the best one trains the groups.

Every trial is an artifact of its own (`search/<scope>/trials/<n>.json`), so a restart runs only what is missing;
`search.json` holds them all and the best setting of every scope.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.stages.group import read_plan
from service.stages.inherit import inherit_search
from service.stages.parent import parent_of
from service.stages.run import Interrupted, JobRun, StageFailed
from service.stages.tries import run_alone
from service.stages.units import Tuned
from service.stages.validate import datasets, fingerprints
from service.states import JobState
from workers.launching.search_config import SearchConfig
from workers.launching.search_space import apply_setting
from workers.launching.trials import Trial, best_of, ranked, read_trials, words
from workers.launching.work import GroupUnit, SearchWork

ARTIFACT = "search.json"
JOB = "job"


def search(run: JobRun) -> None:
    """Writes `search.json` unless it is there, or the job asks for no search; what a parent found is not sought again.

    StageFailed where not one trial of a scope was scored.
    """
    config = run.spec.search
    if config is None:
        return
    run.enter(JobState.SEARCHING)
    if (parent := parent_of(run)) is not None:
        inherit_search(run, parent, read_plan(run))
    if run.has(ARTIFACT):
        return
    groups = {group.id: tuple(group.tasks) for group in read_plan(run).groups}
    scopes = {JOB: groups} if config.scope == "job" else {group: {group: tasks} for group, tasks in groups.items()}
    found = {scope: _search_scope(run, config, scope, members) for scope, members in scopes.items()}
    run.check()
    run.files.write_json(ARTIFACT, {"metric": config.metric, "scope": config.scope, "searches": found})


def tuned(run: JobRun) -> Tuned:
    """What groups and baselines train with: the best settings where there was a search, else the job's own.

    Under scope `group` the baselines keep the job's own: they train other sets of tasks than any group.
    """
    own = (run.spec.method, run.spec.training)
    if run.spec.search is None:
        return Tuned(own)
    searches = run.files.read_json(ARTIFACT)["searches"]
    best = {scope: apply_setting(found["best"]["setting"], *own) for scope, found in searches.items()}
    return Tuned(best[JOB]) if run.spec.search.scope == "job" else Tuned(own, best)


def _search_scope(run: JobRun, config: SearchConfig, scope: str, members: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """Runs one search to its end: its trials, best first, and the best of them."""
    summary = f"search/{scope}/{ARTIFACT}"
    if run.has(summary):
        return run.files.read_json(summary)
    needed = {task for tasks in members.values() for task in tasks}
    directory = run.files.path(f"search/{scope}")
    unit = GroupUnit(
        _unit_id(scope), "search", tuple(t.name for t in run.spec.tasks if t.name in needed), run.spec.method
    )
    common = run.common()
    common["tasks"] = tuple(task for task in run.spec.tasks if task.name in needed)
    work = SearchWork(
        **common,
        groups=(unit,),
        fingerprints=fingerprints(run),
        search=config,
        scope=scope,
        members=members,
        num_train={name: task["num_train"] for name, task in datasets(run).items()},
        method=run.spec.method,
        training=run.spec.training,
        directory=directory,
    )
    told = {trial.number for trial in read_trials(directory) if trial.has_ended}

    def land() -> None:
        _tell_ended(run, config, scope, directory, told)

    def come_to() -> str:
        return str(sum(trial.has_ended for trial in read_trials(directory)))

    before = f"; {len(told)} trial(s) of an earlier attempt count" if told else ""
    run.event("search_started", f"{_whose(scope)}: {', '.join(config.space)} by {config.metric}{before}.")
    try:
        ended = run_alone(run, work, said="The search could not go on: ", come_to=come_to, on_poll=land)
    except Interrupted:
        land()  # what ended while the others wrote their checkpoints
        raise
    not_run = ended["num_not_run"] if ended else 0
    found = _concluded(run, config, scope, read_trials(directory), not_run)
    run.files.write_json(summary, found)
    return found


def _concluded(run: JobRun, config: SearchConfig, scope: str, trials: list[Trial], not_run: int) -> dict[str, Any]:
    best = best_of(trials, config.metric)
    if best is None:
        reasons = "; ".join(f"trial {trial.number} ({words(trial.setting)}): {trial.reason}" for trial in trials)
        raise StageFailed(f"{_whose(scope)}: no setting could be scored. {reasons or 'No trial began in time.'}")
    left = f" {not_run} more were not begun in time." if not_run else ""
    value = _told(best, config)
    run.event(
        "search_done",
        f"{_whose(scope)}: trial {best.number} of {len(trials)} is best with {value}: {words(best.setting)}.{left}",
        data={"scope": scope, "number": best.number, "setting": best.setting},
    )
    return {
        "best": {"number": best.number, "setting": best.setting, "value": best.value(config.metric)},
        "num_not_run": not_run,
        "trials": [asdict(trial) for trial in ranked(trials, config.metric)],
    }


def _tell_ended(run: JobRun, config: SearchConfig, scope: str, directory: Path, told: set[int]) -> None:
    """An event for every trial that ended and was not told yet."""
    for trial in read_trials(directory):
        if trial.has_ended and trial.number not in told:
            told.add(trial.number)
            scored = "" if trial.value(config.metric) is None else f" with {_told(trial, config)}"
            why = f": {trial.reason}" if trial.reason else ""
            run.event(
                "trial_ended",
                f"{_whose(scope)}: trial {trial.number} ({words(trial.setting)}) {_SAID[trial.status]}{scored}{why}",
                level="warning" if trial.status == "failed" else "info",
                data={"scope": scope, "number": trial.number, "status": trial.status, "setting": trial.setting},
            )


def _told(trial: Trial, config: SearchConfig) -> str:
    value = trial.value(config.metric)
    assert value is not None and math.isfinite(value)
    return f"{config.metric} {value:.1%}" if config.metric == "val_score" else f"{config.metric} {value:.4f}"


def _unit_id(scope: str) -> str:
    return "search" if scope == JOB else f"search-{scope}"


def _whose(scope: str) -> str:
    return "Search" if scope == JOB else f"Search for {scope}"


_SAID = {"done": "is done", "stopped": "was stopped", "failed": "failed"}
