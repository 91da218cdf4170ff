"""API keys and the audit log, for admins; and what any key may ask: whose it is."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query

from api.auth import PrincipalOf, administer
from api.context import ControlPlaneOf, JobTextOf
from service import wire_keys
from service.reading import read_spec

router = APIRouter(prefix="/v1", tags=["keys"])
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/NewKey"}}},
    }
}
_ADMIN = [Depends(administer)]
Prefix = Annotated[str, Path(max_length=16, description="The key's prefix.")]


@router.get("/whoami", summary="Whose key is this?")
def whoami(principal: PrincipalOf) -> wire_keys.Whoami:
    """Tenant and role of the key that the request carries."""
    return wire_keys.Whoami.model_validate(principal)


@router.get("/keys", dependencies=_ADMIN, summary="List API keys")
def keys(control_plane: ControlPlaneOf) -> wire_keys.KeyList:
    """All keys of all tenants, without the keys themselves."""
    return wire_keys.KeyList(keys=[wire_keys.Key.model_validate(key) for key in control_plane.store.list_keys()])


@router.post("/keys", status_code=201, dependencies=_ADMIN, openapi_extra=_BODY, summary="Make an API key")
def create(body: JobTextOf, control_plane: ControlPlaneOf) -> wire_keys.CreatedKey:
    """The key is in this answer and nowhere else: only its hash is kept."""
    asked, store = read_spec(wire_keys.NewKey, body.text), control_plane.store
    return _created(
        store.create_key(asked.name, tenant=asked.tenant, role=asked.role, expires_in=asked.expires_in), control_plane
    )


@router.post("/keys/{prefix}/rotate", status_code=201, dependencies=_ADMIN, summary="Replace an API key")
def rotate(
    prefix: Prefix,
    control_plane: ControlPlaneOf,
    overlap: Annotated[float, Query(ge=0, le=604_800, description="Seconds that the old key works on.")] = 0.0,
) -> wire_keys.CreatedKey:
    """A new key for the same holder."""
    return _created(control_plane.store.rotate_key(prefix, overlap=overlap), control_plane)


@router.delete("/keys/{prefix}", dependencies=_ADMIN, summary="Revoke an API key")
def revoke(prefix: Prefix, control_plane: ControlPlaneOf) -> wire_keys.Key:
    """It stops working at once.  Repeatable."""
    return wire_keys.Key.model_validate(control_plane.store.revoke_key(prefix))


@router.get("/audit", dependencies=_ADMIN, summary="Who did what?")
def audit(
    control_plane: ControlPlaneOf,
    tenant: Annotated[str | None, Query(max_length=64, description="Only what this tenant did.")] = None,
    before: Annotated[int | None, Query(ge=0, lt=2**31, description="The `next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Entries per page.")] = 100,
) -> wire_keys.AuditPage:
    """Every request that could change something, and every one that was refused for its key, the newest first."""
    rows = control_plane.store.audit_log(tenant=tenant, before=before, limit=limit + 1)
    entries = [wire_keys.AuditEntry.model_validate(row) for row in rows[:limit]]
    return wire_keys.AuditPage(entries=entries, next=entries[-1].id if len(rows) > limit else None)


def _created(key: str, control_plane: ControlPlaneOf) -> wire_keys.CreatedKey:
    info = wire_keys.Key.model_validate(control_plane.store.get_key(key.split("_")[1]))
    return wire_keys.CreatedKey(**info.model_dump(), key=key)
