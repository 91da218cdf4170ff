"""What the pages of one job share: its head, what can be asked of it, the way to its other pages, what is live."""

import secrets
from typing import Annotated, Any

from fastapi import Depends, Request, Response

from api.context import ControlPlaneOf, ViewsOf
from api.pages.page import Visitor, render
from service import wire
from service.control_plane import ControlPlane
from service.pages.marks import encode, job_marks
from service.roles import Role
from service.states import JobState

PAGES = {
    "overview": "Overview",
    "groups": "Groups",
    "tasks": "Tasks",
    "curves": "Curves",
    "similarity": "Similarity",
    "plans": "Plans",
    "data": "Data",
    "events": "Events",
    "logs": "Logs",
    "files": "Files",
    "description": "Description",
}
"""The pages of a job -> what they are called."""


class Frame:
    """One job, as a page of it is asked for."""

    def __init__(
        self, job_id: str, request: Request, principal: Visitor, control_plane: ControlPlaneOf, views: ViewsOf
    ) -> None:
        self.marks = job_marks(control_plane.store, job_id)  # first: what changes meanwhile is told, at worst again
        self.job: wire.Job = views.job(job_id)
        self.steers = principal.may(Role.SUBMITTER)
        self._principal = principal
        self._request = request
        self._control_plane: ControlPlane = control_plane

    def render(self, page: str, *, tab: str | None = None, **told: Any) -> Response:
        """The page `job_<page>.html` of this job; `tab` is the page that it stands under, if that is another."""
        job = self.job
        return render(
            self._request,
            f"job_{page}.html",
            job=job,
            tab=tab or page,
            pages=PAGES,
            seen=encode(self.marks),
            once=secrets.token_hex(16),
            steers=self.steers,
            waits_for_approval=job.state == JobState.AWAITING_APPROVAL and job.desired == "run",
            shows_dashboard=self._principal.may(Role.OPERATOR) and self._control_plane.dashboard is not None,
            **told,
        )


FrameOf = Annotated[Frame, Depends()]
