"""Long pure work of a stage, in a thread of its own, while the driver goes on looking at what its user wishes."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

from service.stages.run import JobRun
from service.stages.supervise import MAX_POLL_SECONDS

Result = TypeVar("Result")


def aside(run: JobRun, work: Callable[[], Result]) -> Result:
    """What `work` returns, or raises.  `Interrupted` or `StaleAttempt` within a look of the wish that ends the attempt.

    The thread cannot be stopped: it comes to its end unheard, and the process ends after it (a thread that is cut off
    in compiled code takes the process down).  So `work` writes nothing that would be wrong then.
    """
    future: Future[Result] = Future()

    def compute() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=compute, name="aside").start()
    seconds = min(run.settings.poll_seconds, MAX_POLL_SECONDS)
    while not wait([future], timeout=seconds).done:
        run.check()
    run.check()
    return future.result()
