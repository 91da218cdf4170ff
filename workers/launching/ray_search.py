"""A search with Ray Tune: how it begins and ends, and what is written down of its trials.

Runs in the actor that stands for the search, so `Tuner.fit()` has a process of its own, away from the driver's signals.
Tune's own experiment state is never read again: it is pickled, with all that the storage is reached by, and forgets a
trial's reason.  So it stays on this machine until the search ends, and every trial is a JSON record among the job's
files (trials.py), from which a later attempt runs what is missing, under the same numbers and settings.
"""

import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from workers.failures import classify
from workers.launching.board import Outcome
from workers.launching.ray_settings import NUMBER, Settings, setting_of
from workers.launching.ray_trial import FAILURE, VALIDATION, run_trial
from workers.launching.trials import SCRATCH, Trial, first_telling_validation, read_trials, words
from workers.launching.work import SearchWork
from workers.storage import has_file, remove_tree

GRACE_SECONDS = 60.0
"""How long trials that are asked to stop may take for a step and a checkpoint before Tune ends them."""
GONE = (
    "the process that ran it is gone. The usual cause is memory: use a smaller training.batch_size, or a machine with "
    "more of it."
)


@dataclass
class SearchState:
    """What Tune's hooks share: the records, which trials run, and whether the search is asked to end."""

    work: SearchWork
    stop_requested: Callable[[], bool]
    request_stop: Callable[[], None]
    log: Callable[[str], None]
    trials: dict[int, Trial] = field(default_factory=dict)
    live: set[int] = field(default_factory=set)
    started_at: float = field(default_factory=time.monotonic)
    spent: float = 0.0
    """Seconds of the attempts before this one."""
    is_over_budget: bool = False
    asked_at: float | None = None

    def __getstate__(self) -> dict:
        return {}  # Tune pickles its hooks for a restore that this search never makes

    @property
    def seconds(self) -> float:
        return self.spent + time.monotonic() - self.started_at

    def is_ending(self) -> bool:
        """Whether a wish or the time budget ends the search; a budget that is over asks the trials to stop."""
        if self.asked_at is None:
            limit = self.work.search.max_seconds
            if limit is not None and self.seconds > limit:
                self.is_over_budget = True
                self.request_stop()
            if self.stop_requested():
                self.asked_at = time.monotonic()
        return self.asked_at is not None

    def should_end_now(self) -> bool:
        """Trials that are asked to stop end by themselves, with a checkpoint; Tune waits for them, but not for ever."""
        if not self.is_ending():
            return False
        assert self.asked_at is not None
        return not self.live or time.monotonic() - self.asked_at > GRACE_SECONDS

    def ended(self, trial: Trial) -> None:
        """Keeps how a trial ended; its checkpoints have served."""
        trial = replace(trial, ended_at=self.seconds)
        self.trials[trial.number] = trial
        trial.write(self.work.directory)
        remove_tree(self.work.directory / SCRATCH / str(trial.number))
        value = trial.value(self.work.search.metric)
        scored = "" if value is None else f" with {self.work.search.metric} {value:.4f}"
        told = f": {trial.reason}" if trial.reason else ""
        self.log(f"trial {trial.number} is {trial.status}{scored} after step {trial.step}/{trial.num_steps}{told}")


def search(
    work: SearchWork,
    *,
    device: str,
    resources: Mapping[str, float],
    max_concurrent: int,
    stop_requested: Callable[[], bool],
    request_stop: Callable[[], None],
    log: Callable[[str], None],
) -> Outcome:
    """Runs the trials that have no record yet and returns once all have ended, the time is over or a stop was asked."""
    kept = read_trials(work.directory)
    state = SearchState(work, stop_requested, request_stop, log, {trial.number: trial for trial in kept})
    state.spent = max((trial.ended_at for trial in kept), default=0.0)
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a trial may be stopped before its first validation
    try:
        with TemporaryDirectory(prefix="cohort-tune-", ignore_cleanup_errors=True) as notes:
            num_missing = _fit(state, device, resources, max_concurrent, notes)
    except Exception as error:
        reason = f"Ray Tune broke off: {type(error).__name__}: {error}"
        return Outcome("failed", error=reason, fault=classify(error), traceback=traceback.format_exc())
    if state.asked_at is not None and not state.is_over_budget:
        return Outcome("stopped", error="stopped; the trials that ended are kept")
    for trial in [trial for trial in state.trials.values() if not trial.has_ended]:
        state.ended(replace(trial, status="stopped", reason=f"the search's {work.search.max_seconds:g} s were over"))
    remove_tree(work.directory / SCRATCH)
    return Outcome("done", value={"num_not_run": num_missing})


def _fit(state: SearchState, device: str, resources: Mapping[str, float], max_concurrent: int, notes: str) -> int:
    """Runs Tune to its end; how many trials were never started.  `notes`: a folder for Tune's own files."""
    work, config = state.work, state.work.search
    searcher = Settings(work, list(state.trials.values()), state.is_ending)
    if not searcher.num_missing or state.is_ending():
        return searcher.num_missing

    def trial(setting: dict[str, Any]) -> None:
        run_trial(work, setting, device)

    trial.__name__ = f"{work.job}-{work.groups[0].id}"  # what the dashboard shows for the trials' processes
    tuner = tune.Tuner(
        tune.with_resources(trial, dict(resources)),
        tune_config=tune.TuneConfig(
            metric=config.metric,
            mode=config.mode,
            search_alg=searcher,
            scheduler=_scheduler(work),
            num_samples=searcher.num_missing,
            max_concurrent_trials=max_concurrent,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial_name(work, trial),
            trial_dirname_creator=lambda trial: trial_name(work, trial),
        ),
        run_config=tune.RunConfig(
            name=f"{work.job}-{work.groups[0].id}-{work.attempt}",
            storage_path=notes,
            verbose=0,
            stop=Ending(state),
            callbacks=[Records(state)],
        ),
    )
    tuner.fit()
    return searcher.num_missing


def trial_name(work: SearchWork, trial: TuneTrial) -> str:
    """`job-7-search-003` or `job-7-search-g2-003`: how Tune and its files call a trial."""
    return f"{work.job}-{work.groups[0].id}-{trial.config[NUMBER]:03d}"


class Ending(tune.Stopper):
    """Tells Tune when the whole search is over; single trials are the scheduler's."""

    def __init__(self, state: SearchState) -> None:
        self._state = state

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._state.should_end_now()


class Records(tune.Callback):
    """Writes down what becomes of every trial."""

    def __init__(self, state: SearchState) -> None:
        self._state = state

    def on_trial_start(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        number, setting = setting_of(trial.config)
        started = Trial(number, setting)
        self._state.trials[number] = started
        self._state.live.add(number)
        started.write(self._state.work.directory)
        self._state.log(f"trial {number} starts: {words(setting)}")

    def on_trial_result(self, iteration: int, trials: list, trial: TuneTrial, result: dict, **info: Any) -> None:
        if VALIDATION not in result:  # Tune's own word of a trial that ended before it had one
            return
        number = trial.config[NUMBER]
        heard = self._state.trials[number].heard(result)
        self._state.trials[number] = heard
        self._state.log(
            f"trial {number} | step {heard.step}/{heard.num_steps} | val_score {heard.val_score:.4f} | "
            f"val_loss {heard.val_loss:.4f}"
        )

    def on_trial_complete(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        record = self._state.trials[trial.config[NUMBER]]
        self._state.live.discard(record.number)
        if record.validations and record.step >= record.num_steps:
            self._state.ended(replace(record, status="done"))
        elif not self._state.is_ending():
            reason = f"ended by {self._state.work.search.scheduler} at step {record.step} of {record.num_steps}"
            self._state.ended(replace(record, status="stopped", reason=reason))

    def on_trial_error(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        record = self._state.trials.get(trial.config[NUMBER])
        if record is None:  # its process never came up
            record = Trial(*setting_of(trial.config))
        self._state.live.discard(record.number)
        told = self._state.work.directory / SCRATCH / str(record.number) / FAILURE
        self._state.ended(replace(record, status="failed", reason=told.read_text() if has_file(told) else GONE))


def _scheduler(work: SearchWork) -> TrialScheduler | None:
    """Who ends trials early, by their validations."""
    first = first_telling_validation(work)
    match work.search.scheduler:
        case "none":
            return None
        case "asha":
            most = work.training.validations
            return AsyncHyperBandScheduler(time_attr=VALIDATION, max_t=most, grace_period=first, reduction_factor=3)
        case "median":
            return MedianStoppingRule(time_attr=VALIDATION, grace_period=first, min_samples_required=3)
