"""All pages.  They are no part of the API that `/docs` describes."""

from fastapi import APIRouter

from api.pages import jobs, live, records, results, sign_in

router = APIRouter(include_in_schema=False)
for room in (sign_in, live, results, records, jobs):
    router.include_router(room.router)
