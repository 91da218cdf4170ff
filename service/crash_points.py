"""Every named point at which a control plane or a driver may die, and nothing is lost or done twice: the only list.

A plan of faults (`workers.faults`, settings.faults) names them.  Points at which a file is written are listed beside
the code that writes it.
"""

_COMMITS = (
    "create_job",
    "set_desired",
    "approve_plan",
    "start_attempt",
    "move",
    "add_event",
    "put_groups",
    "update_group",
    "put_metrics",
    "put_results",
    "add_plan",
    "hold_lease",
    "take_over_rows",
)
_AFTERLIFE_COMMITS = ("archive", "unarchive", "delete", "restore", "begin_purges", "end_purge")
COMMITS = frozenset(_COMMITS + _AFTERLIFE_COMMITS)
"""Every commit that has a name; the store makes none of another name."""

STORE = tuple(f"store.{what}.{when}" for what in _COMMITS for when in ("commits", "committed"))
"""Right before and right after every commit that a job's life hangs on."""

COORDINATOR = tuple(f"coordinator.{what}" for what in ("submits", "submitted", "stops", "stopped", "buries", "buried"))
"""Around everything that the coordinator does to a driver."""

DRIVER = tuple(
    f"driver.{what}"
    for what in (
        "begins",
        "datasets.writes",
        "datasets.written",
        "signatures.written",
        "review.writes",
        "review.written",
        "result.read",
        "results.landed",
        "bundle.writes",
        "bundle.written",
        "ends",
        "ended",
    )
)
"""Around every artifact of a stage, and before and after the driver's last word."""

AFTERLIFE = tuple(f"store.{what}.{when}" for what in _AFTERLIFE_COMMITS for when in ("commits", "committed"))
"""Around what becomes of finished jobs, which no driver takes part in."""

RETRY = ("retry.copies",)
"""Before every file that a retry takes over."""

CRASH_POINTS = STORE + COORDINATOR + DRIVER + RETRY
