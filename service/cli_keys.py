"""`cohort keys ...`, `whoami`, `audit` and `link`: who may use the service, and who did."""

import re
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from service.cli_parts import JobId, Json, connected, job_id_of, tell
from service.roles import DEFAULT_TENANT, Role
from service.wire_keys import AuditEntry, CreatedKey, Key

app = typer.Typer()
keys = typer.Typer(no_args_is_help=True, help="Make, list, replace and revoke API keys (for admins).")
app.add_typer(keys, name="keys")

_Prefix = Annotated[str, typer.Argument(help="The key's prefix, as `cohort keys ls` shows it.")]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@keys.command()
def ls(ctx: typer.Context, as_json: Json = False) -> None:
    """List the keys of all tenants."""
    with connected(ctx) as client:
        found = client.keys()
    tell(found, as_json, lambda: [_keys_table(found)])


@keys.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Who or what will use it.")],
    tenant: Annotated[str, typer.Option(help="Whose jobs it is for.")] = DEFAULT_TENANT,
    role: Annotated[Role, typer.Option(help="What it may do.")] = Role.SUBMITTER,
    expires: Annotated[str | None, typer.Option(help="When it ends, e.g. `12h` or `90d`.  (default: never)")] = None,
    as_json: Json = False,
) -> None:
    """Make a key.  It is shown this once."""
    with connected(ctx) as client:
        made = client.create_key(name, tenant=tenant, role=role, expires_in=None if expires is None else _span(expires))
    tell(made, as_json, lambda: _made_lines(made))


@keys.command()
def rotate(
    ctx: typer.Context,
    prefix: _Prefix,
    overlap: Annotated[str, typer.Option(help="How long the old key works on, e.g. `1h`.")] = "0s",
    as_json: Json = False,
) -> None:
    """Replace a key by a new one for the same holder."""
    with connected(ctx) as client:
        made = client.rotate_key(prefix, overlap=_span(overlap))
    tell(made, as_json, lambda: _made_lines(made))


@keys.command()
def revoke(ctx: typer.Context, prefix: _Prefix, as_json: Json = False) -> None:
    """Stop a key from working, at once."""
    with connected(ctx) as client:
        found = client.revoke_key(prefix)
    tell(found, as_json, lambda: [f"The key {found.prefix} ({found.name}) works no more."])


@app.command()
def whoami(ctx: typer.Context, as_json: Json = False) -> None:
    """Show the tenant and the role of the key in use."""
    with connected(ctx) as client:
        found = client.whoami()
    tell(found, as_json, lambda: [f"{found.name}: {found.role} of {found.tenant} (key {found.key or 'none'})"])


@app.command()
def audit(
    ctx: typer.Context,
    tenant: Annotated[str | None, typer.Option(help="Only what this tenant did.")] = None,
    before: Annotated[int | None, typer.Option(help="Only entries with a lower number.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    as_json: Json = False,
) -> None:
    """Show who changed what, and who was refused, the newest first (for admins)."""
    with connected(ctx) as client:
        page = client.audit(tenant=tenant, before=before, limit=limit)
    tell(page, as_json, lambda: [_audit_table(page.entries)])


@app.command()
def link(
    ctx: typer.Context,
    job: JobId,
    path: Annotated[str, typer.Argument(help="One of the job's files, e.g. `bundle/report.html`.")],
    expires: Annotated[str, typer.Option(help="For how long, at most a week, e.g. `30m`.")] = "1h",
    as_json: Json = False,
) -> None:
    """Make a link under which anybody can fetch a file of a job, without a key."""
    with connected(ctx) as client:
        found = client.link(job_id_of(client, job), path, expires_in=int(_span(expires)))
    tell(found, as_json, lambda: [found.url])


def _span(text: str) -> float:
    """Seconds.  ValueError for what is no span of time."""
    match = re.fullmatch(r"(\d{1,9})([smhd])", text.strip())
    if match is None:
        raise ValueError(f"{text!r:.40} is no span of time. Give a number and s, m, h or d, as in `90d`.")
    return float(match[1]) * _UNITS[match[2]]


def _made_lines(made: CreatedKey) -> list[str]:
    return [made.key, f"{made.role} of {made.tenant}, for {made.name}. It is not shown again."]


def _keys_table(found: list[Key]) -> Table:
    table = Table("prefix", "name", "tenant", "role", "made", "last used", "ends", box=None)
    for key in found:
        ends = [end for end in (key.expires_at, key.revoked_at) if end is not None]
        dates = (key.created_at, key.last_used_at, min(ends, default=None))
        table.add_row(key.prefix, key.name, key.tenant, key.role, *map(_date, dates))
    return table


def _audit_table(entries: list[AuditEntry]) -> Table:
    table = Table("number", "when", "tenant", "key", "role", "from", "what", "job", "status", box=None)
    for each in entries:
        who = (each.tenant, each.key, each.role, each.address, each.action, each.job_id)
        table.add_row(str(each.id), _date(each.at), *(part or "-" for part in who), str(each.status))
    return table


def _date(when: datetime | None) -> str:
    return "-" if when is None else when.strftime("%Y-%m-%d %H:%M")
