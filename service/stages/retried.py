"""What a retry takes over from the job that it retries: all that stages have finished, and checkpoints to go on from.

It is copied before the first stage begins, which then finds its artifacts as a resumed attempt would.  The retried
job's files are not needed later.
"""

from contextlib import suppress

from service.artifacts import TAKEN_OVER, JobFiles
from service.measurements import DATASETS, SIGNATURES
from service.stages.run import JobRun
from workers import faults
from workers.launching.trials import read_trials
from workers.storage import write

_KEPT = ("datasets.json", "profile/", "plans/", "arbitration", "search", "groups/")


def take_over_retried(run: JobRun) -> None:
    """Copies what the retried job has finished, unless that is done, or the job is no retry."""
    retried = run.store.get_job(run.job).retry_of
    if retried is None or run.files.exists(TAKEN_OVER):
        return
    source = JobFiles(run.settings.storage_place, retried)
    for path in _worth_keeping(source):
        run.check()
        faults.point("retry.copies")
        with suppress(FileNotFoundError):  # a worker that is being ended may still replace a checkpoint by the next
            write(run.files.path(path), source.path(path).read_bytes())
    run.take_over_rows(retried)
    groups = [row.id for row in run.store.groups(retried) if run.files.exists(f"groups/{row.id}/result.json")]
    run.files.write_json(TAKEN_OVER, {"retried": retried, "groups": groups})
    there = {"the data as it was looked at": DATASETS, "the signatures": SIGNATURES}
    taken = [words for words, path in there.items() if run.files.exists(path)]
    taken += [f"{len(plans)} plan(s)"] if (plans := run.store.plans(run.job)) else []
    taken += [f"{len(groups)} finished group(s) and baselines: {', '.join(groups)}"] if groups else []
    run.event(
        "taken_over",
        f"Retries {retried}. Taken over: {'; '.join(taken) or 'nothing, as it had finished nothing'}.",
        data={"retried": retried, "groups": groups},
    )


def _worth_keeping(source: JobFiles) -> list[str]:
    """What later stages look for; of a search that has not ended, trials that failed are tried again."""
    failed = set()
    for folder in source.path("search").glob("*"):
        if not (folder / "search.json").exists():
            failed |= {
                f"search/{folder.name}/trials/{trial.number}.json"
                for trial in read_trials(folder)
                if trial.status == "failed"
            }
    return [info.path for info in source.list() if info.path.startswith(_KEPT) and info.path not in failed]
