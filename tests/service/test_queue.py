"""Laws of the line: priorities first, tenants in turn, nobody above its quota, no room left empty."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from service.queue import Holding, Need, Quota, Seating, Waiting, line_up, seat, wait_until_start


def waiting(*jobs: str) -> list[Waiting]:
    """`tenant:priority` each, in the order of submission; ids count from 0."""
    found = [job.partition(":") for job in jobs]
    return [Waiting(str(index), tenant, int(priority or 0)) for index, (tenant, _, priority) in enumerate(found)]


def order(jobs: list[Waiting], running: dict[str, int] | None = None) -> str:
    return "".join(job.id for job in line_up(jobs, running or {}))


def seated(jobs: list[Waiting], running: list[Holding] | None = None, *, room: int = 9, **more) -> Seating:
    running = running or []
    line = line_up(jobs, Counter(each.tenant for each in running))
    given = {"quotas": {}, "stored": {}, "need": lambda job: Need(1, 100)}
    return seat(line, running, room=room, **(given | more))


def test_jobs_of_one_tenant_start_in_the_order_of_their_submission() -> None:
    assert order(waiting("a", "a", "a")) == "012"


def test_a_higher_priority_goes_first_whatever_else() -> None:
    assert order(waiting("a", "a:5", "b:-1", "a:5")) == "1302"


def test_tenants_take_turns_however_many_jobs_one_of_them_sends() -> None:
    assert order(waiting("a", "a", "a", "a", "b", "b")) == "041523"


def test_a_tenant_that_runs_jobs_waits_until_others_run_as_many() -> None:
    assert order(waiting("a", "b", "b"), {"a": 1}) == "102"


def test_what_a_tenant_has_ahead_at_a_higher_priority_counts_as_its_turn() -> None:
    assert order(waiting("a:1", "a", "b")) == "021"


jobs_of_tenants = st.lists(st.tuples(st.sampled_from("abc"), st.integers(-1, 1)), max_size=12)


@given(jobs_of_tenants, st.dictionaries(st.sampled_from("abc"), st.integers(0, 3)))
def test_the_line_is_what_taking_the_tenant_with_the_fewest_again_and_again_gives(sent, running) -> None:
    left = [Waiting(f"{index:02}", tenant, priority) for index, (tenant, priority) in enumerate(sent)]
    expected, counts = [], Counter(running)
    line = [job.id for job in line_up(left, running)]
    while left:
        first = {job.tenant: job for job in sorted(left, key=lambda job: (-job.priority, job.id), reverse=True)}
        highest = max(job.priority for job in left)
        ready = [job for job in first.values() if job.priority == highest]
        job = min(ready, key=lambda job: (counts[job.tenant], job.id))
        expected.append(job.id)
        counts[job.tenant] += 1
        left.remove(job)
    assert line == expected


@given(
    jobs_of_tenants,
    st.lists(st.builds(Holding, st.sampled_from("abc"), st.sampled_from([None, 1, 2])), max_size=4),
    st.dictionaries(
        st.sampled_from("ab"),
        st.builds(Quota, st.none() | st.integers(0, 3), st.none() | st.integers(0, 4), st.none() | st.integers(0, 4)),
    ),
    st.integers(1, 6),
    st.integers(1, 3),
)
def test_every_job_starts_or_is_told_why_not_and_no_start_exceeds_anything(sent, running, quotas, room, least) -> None:
    jobs = [Waiting(f"{index:02}", tenant, priority) for index, (tenant, priority) in enumerate(sent)]
    found = seated(jobs, running, room=room, quotas=quotas, stored={"a": 2}, need=lambda job: Need(least, 3 * least))
    assert set(found.starts) | set(found.waits) == {job.id for job in jobs}
    assert not set(found.starts) & set(found.waits)
    assert len(found.starts) <= max(0, room - len(running))
    for tenant, quota in quotas.items():
        started = [devices for job, devices in found.starts.items() if jobs[int(job)].tenant == tenant]
        before = [each.devices for each in running if each.tenant == tenant]
        if started and quota.max_running_jobs is not None:
            assert len(started) + len(before) <= quota.max_running_jobs
        if started and quota.max_devices is not None:
            granted = [devices for devices in started if devices is not None]
            assert len(granted) == len(started) and None not in before
            assert sum(granted) + sum(devices or 0 for devices in before) <= quota.max_devices
            assert min(granted) >= least
        if started and quota.max_storage_bytes is not None:
            assert {"a": 2}.get(tenant, 0) < quota.max_storage_bytes
    if len(running) + len(found.starts) < room:
        assert not [why for why in found.waits.values() if why.startswith("Room")]


def test_a_tenant_at_its_quota_holds_up_no_other() -> None:
    found = seated(waiting("a", "a", "b"), [Holding("a")], quotas={"a": Quota(max_running_jobs=1)})
    assert (list(found.starts), found.waits["0"]) == (["2"], "Quota: its tenant runs 1 of 1 jobs.")


def test_devices_are_shared_by_the_jobs_that_can_start_now() -> None:
    quotas = {"a": Quota(max_devices=8)}
    assert seated(waiting("a"), quotas=quotas).starts == {"0": 8}
    assert seated(waiting("a", "a"), quotas=quotas).starts == {"0": 4, "1": 4}
    assert seated(waiting("a", "a", "a"), quotas=quotas, room=2).starts == {"0": 4, "1": 4}
    assert seated(waiting("a"), quotas=quotas, need=lambda job: Need(1, 3)).starts == {"0": 3}


def test_a_job_waits_for_all_the_devices_that_it_needs_and_is_not_overtaken_by_its_own_tenant() -> None:
    needs = {"0": Need(3, 3), "1": Need(1, 1)}
    found = seated(
        waiting("a", "a"), [Holding("a", 2)], quotas={"a": Quota(max_devices=4)}, need=lambda job: needs[job]
    )
    assert found.starts == {}
    assert found.waits["0"] == "Quota: its tenant's jobs hold 2 of 4 devices, and it needs 3."


def test_a_job_that_can_never_have_its_devices_holds_up_nobody() -> None:
    needs = {"0": Need(9, 9), "1": Need(1, 1)}
    found = seated(waiting("a", "a"), quotas={"a": Quota(max_devices=4)}, need=lambda job: needs[job])
    assert found.starts == {"1": 1}
    assert "needs 9 devices at a time, and its tenant may use 4" in found.waits["0"]


def test_a_tenant_whose_files_take_all_they_may_starts_nothing() -> None:
    found = seated(waiting("a"), quotas={"a": Quota(max_storage_bytes=10)}, stored={"a": 10})
    assert "10 of 10 bytes" in found.waits["0"]


def test_the_wait_is_until_so_many_jobs_have_ended() -> None:
    assert wait_until_start(1, [], 2, 100) == 0
    assert wait_until_start(1, [30, 80], 2, 100) == 20
    assert wait_until_start(2, [30, 80], 2, 100) == 70
    assert wait_until_start(3, [30, 80], 2, 100) == 120
    assert wait_until_start(1, [500], 1, 100) == 0  # it may end at any time
    assert wait_until_start(1, [10, 20, 30], 2, 100) == 80  # more run than may: the first end lets nobody in


def test_a_job_is_told_of_its_quota_even_where_there_is_no_room() -> None:
    found = seated(waiting("a", "b"), [Holding("a")], room=1, quotas={"a": Quota(max_running_jobs=1)})
    assert found.waits == {"0": "Quota: its tenant runs 1 of 1 jobs.", "1": "Room: 1 of 1 jobs run on this service."}
