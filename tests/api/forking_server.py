"""Serves the API in processes that die: `python forking_server.py DATABASE_URL HOME` prints its port, then reads plans.

For every plan of faults (a line, may be empty) it forks a process that serves with them, prints its number, and waits
for its end, however that comes.  The socket stays open in between, so that nobody is refused.  What a new process would
import and build is there before the fork, or five hundred of them would take an hour.
"""

import os
import socket
import sys

import uvicorn

from api.app import create_app
from service.control_plane import ControlPlane
from service.ray_jobs import FakeRayJobs
from service.settings import Settings
from service.store import Store
from workers import faults


def main(database_url: str, home: str) -> None:
    settings = Settings.model_validate(
        {"home": home, "data_roots": [home], "no_auth": True, "requests_per_minute": 0, "database_url": database_url}
    )
    app = create_app(ControlPlane(settings, store=Store(database_url), ray_jobs=FakeRayJobs()))
    config = uvicorn.Config(app, log_level="critical", lifespan="off")
    config.load()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        say(listener.getsockname()[1])
        for plan in sys.stdin:
            child = os.fork()
            if child == 0:
                faults.arm(plan.strip())
                uvicorn.Server(config).run(sockets=[listener])
                os._exit(0)
            say(child)
            os.waitpid(child, 0)


def say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
