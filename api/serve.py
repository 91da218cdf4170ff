"""Serving in the foreground: what `cohort up` does, from the settings to a clean end.

1. Take a port.  2. Start the control plane (and with it Ray).  3. Leave the address and a key in the home folder.
4. Answer until somebody says stop.  5. End open streams, let jobs write checkpoints, stop what was started.
"""

import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.auth import check_exposure
from service import logs
from service.connection import Connection
from service.control_plane import ControlPlane
from service.roles import Role
from service.settings import Settings

_GRACE_SECONDS = 5


def serve(settings: Settings, *, started: Callable[[Connection], None], until_stdin_closes: bool = False) -> None:
    """Serves until SIGINT or SIGTERM, and then stops all it started; a second one ends it at once.

    Must run in the main thread.

    Args:
        started: called once everything answers.
        until_stdin_closes: also stop when standard input ends, so that a parent process that dies takes this one along.
    """
    check_exposure(settings)
    logs.configure(sys.stderr, settings)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())  # a start that is under way is finished first, then undone
    with _listen(settings) as listener:
        control_plane = ControlPlane(settings)
        control_plane.start()
        try:
            server = Server(create_app(control_plane))
            for number in (signal.SIGINT, signal.SIGTERM):  # a signal is caught by one of the two: look after this
                signal.signal(number, server.handle_exit)
            if not stop.is_set():
                if until_stdin_closes:
                    threading.Thread(target=server.stop_with_stdin, daemon=True, name="stdin").start()
                started(_connect(control_plane, listener))
                server.run(sockets=[listener])
        finally:
            control_plane.stop()


class Server(uvicorn.Server):
    """Ends open event streams before it waits for connections to close."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,  # through our own
                access_log=False,
                timeout_graceful_shutdown=_GRACE_SECONDS,
                server_header=False,
            )
        )
        self._closing: threading.Event = app.state.closing
        self._asked_to_end = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # SQLite lets go of the interpreter after every row, and a thread that wants it back waits this long for it:
        # by default 5 ms, which made 200 requests a second take seconds each, and now take milliseconds (bench.load)
        sys.setswitchinterval(0.0005)
        gc.freeze()  # what is there now stays: it need not be looked through while requests wait
        await super().startup(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves them to `serve`, which hears them from before the server runs until all is stopped."""
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._asked_to_end:
            os._exit(128 + sig)  # asked twice: now, and whoever starts next takes up what is left
        self._asked_to_end = True
        self._closing.set()
        super().handle_exit(sig, frame)

    def stop_with_stdin(self) -> None:
        while os.read(sys.stdin.fileno(), 1024):  # unbuffered: a buffer's lock, held here, would abort the exit
            pass
        self._closing.set()
        self.should_exit = True


def _listen(settings: Settings) -> socket.socket:
    """The port of the settings.  If nobody chose it and it is taken, any free one.  ValueError if it cannot be had."""
    ports = [settings.port] if "port" in settings.model_fields_set else [settings.port, 0]
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    for port in ports:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, port))
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            reason = error
    raise ValueError(
        f"{settings.host}:{settings.port} cannot be listened on ({reason}). Choose another with --host and --port; "
        "port 0 takes any free one."
    )


def _connect(control_plane: ControlPlane, listener: socket.socket) -> Connection:
    """Writes down where and with which key this service answers; an earlier key is kept while it is good."""
    settings, store = control_plane.settings, control_plane.store
    key = None
    if not settings.no_auth:
        earlier = Connection.read(settings.home)
        key = earlier.key if earlier else None
        if key is None or store.check_key(key) is None:
            key = store.create_key("local", role=Role.ADMIN)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{listener.getsockname()[1]}"
    connection = Connection(url=url, key=key, dashboard=control_plane.dashboard, pid=os.getpid())
    connection.write(settings.home)
    return connection
