"""`cohort priority` and `cohort quota`: who starts when, and what tenants may use."""

from typing import Annotated

import typer

from service import show
from service.cli_parts import JobId, Json, connected, job_id_of, tell
from service.wire_queue import Quota

app = typer.Typer()


@app.command()
def priority(
    ctx: typer.Context,
    job: JobId,
    number: Annotated[int, typer.Argument(min=-100, max=100, help="Higher ones start first.")],
    as_json: Json = False,
) -> None:
    """Let a job start earlier or later."""
    with connected(ctx) as client:
        found = client.set_priority(job_id_of(client, job), number)
    tell(found, as_json, lambda: [f"{found.id} has priority {found.priority}."])


@app.command()
def quota(
    ctx: typer.Context,
    tenant: Annotated[str | None, typer.Argument(help="Another tenant, for admins.")] = None,
    jobs: Annotated[int | None, typer.Option(min=0, help="Set: jobs that run at the same time.")] = None,
    devices: Annotated[int | None, typer.Option(min=0, help="Set: devices that they hold together.")] = None,
    storage: Annotated[int | None, typer.Option(min=0, help="Set: bytes of all files.")] = None,
    highest: Annotated[int | None, typer.Option(min=-100, max=100, help="Set: the highest priority.")] = None,
    lift: Annotated[bool, typer.Option("--lift", help="Lift every limit.")] = False,
    as_json: Json = False,
) -> None:
    """Show what a tenant may use and uses, or set it whole: limits that are not given are none."""
    given = {"max_running_jobs": jobs, "max_devices": devices, "max_storage_bytes": storage, "max_priority": highest}
    sets = any(value is not None for value in given.values())
    if ((sets or lift) and tenant is None) or (sets and lift):
        raise ValueError("quota: expected one TENANT with limits to set, or with --lift. See `cohort quota --help`.")
    with connected(ctx) as client:
        if tenant is not None and sets:
            found = client.set_quota(tenant, **given)
        elif tenant is not None and lift:
            found = client.delete_quota(tenant)
        else:
            found = client.quota(tenant)
    tell(found, as_json, lambda: [f"Tenant {found.tenant}", show.plain_table(["", "used", "at most"], _rows(found))])


def _rows(found: Quota) -> list[list[str]]:
    limits = [
        ("running jobs", found.running_jobs, found.max_running_jobs),
        ("devices", found.devices, found.max_devices),
        ("bytes of files", found.storage_bytes, found.max_storage_bytes),
    ]
    rows = [[name, str(used), "-" if most is None else str(most)] for name, used, most in limits]
    return [*rows, ["priority", "", "-" if found.max_priority is None else str(found.max_priority)]]
