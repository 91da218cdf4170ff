"""What tenants may use: asked by themselves, set by admins."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path

from api.auth import PrincipalOf, administer
from api.context import ControlPlaneOf, JobTextOf
from service import wire_queue
from service.reading import read_spec
from service.store import Store

router = APIRouter(prefix="/v1", tags=["quotas"])
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/NewQuota"}}},
    }
}
_ADMIN = [Depends(administer)]
Tenant = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="The tenant's name.")]


@router.get("/quota", summary="What may I use?")
def own_quota(principal: PrincipalOf, control_plane: ControlPlaneOf) -> wire_queue.Quota:
    """What the tenant of the key may use, and what it uses."""
    return _quota(control_plane.store, principal.tenant)


@router.get("/tenants/{tenant}/quota", dependencies=_ADMIN, summary="What may a tenant use?")
def quota(tenant: Tenant, control_plane: ControlPlaneOf) -> wire_queue.Quota:
    """Limits and use; a tenant that nobody has limited has none."""
    return _quota(control_plane.store, tenant)


@router.put("/tenants/{tenant}/quota", dependencies=_ADMIN, openapi_extra=_BODY, summary="Limit a tenant")
def set_quota(tenant: Tenant, body: JobTextOf, control_plane: ControlPlaneOf) -> wire_queue.Quota:
    """Sets all limits of a tenant at once.  What runs goes on, even above them."""
    control_plane.store.set_quota(tenant, **dict(read_spec(wire_queue.NewQuota, body.text)))
    return _quota(control_plane.store, tenant)


@router.delete("/tenants/{tenant}/quota", dependencies=_ADMIN, summary="Lift a tenant's limits")
def delete_quota(tenant: Tenant, control_plane: ControlPlaneOf) -> wire_queue.Quota:
    """Repeatable."""
    control_plane.store.delete_quota(tenant)
    return _quota(control_plane.store, tenant)


def _quota(store: Store, tenant: str) -> wire_queue.Quota:
    return wire_queue.Quota(tenant=tenant, **vars(store.quota(tenant)), **vars(store.usage(tenant)))
