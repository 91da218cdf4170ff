"""All pages.  They are no part of the API that `/docs` describes."""

from fastapi import APIRouter

from api.pages import jobs, live, plans, records, results, sign_in, submit

# `jobs` comes last: what it asks of a job takes the place of any name
ROOMS = tuple(room.router for room in (sign_in, live, submit, plans, results, records, jobs))

router = APIRouter(include_in_schema=False)
for room in ROOMS:
    router.include_router(room)
