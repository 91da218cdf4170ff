"""`cohort estimate`: what a job would take, before anything is spent."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from service.cli_parts import DONE, FAILED, INTERRUPTED, Json, connected, tell
from service.show import duration
from service.wire_estimate import Estimate, Forecast, Interval

app = typer.Typer()


@app.command()
def estimate(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A job description, YAML or JSON.")],
    as_json: Json = False,
) -> None:
    """Try a job in small: does it fit into memory, how long will it take, which images are bad.

    A sample of the images is read and a few steps are trained, on the service's devices.  Exits with 1 if the job would
    not work.
    """
    with connected(ctx) as client:
        asked = client.estimate(file)
        try:
            found = client.wait_for_estimate(asked.id)
        except KeyboardInterrupt:
            typer.echo(f"\n{asked.id} goes on. `cohort cancel {asked.id}` stops it.", err=True)
            raise typer.Exit(INTERRUPTED) from None
    tell(found, as_json, lambda: lines(found))
    raise typer.Exit(DONE if found.forecast is not None and not found.forecast.problems else FAILED)


def lines(found: Estimate) -> Iterator[str]:
    """An estimate for people."""
    if found.forecast is None:
        yield f"The estimate {found.id} of {found.name} is {found.state}. {found.reason or ''}".rstrip()
        return
    yield f"{found.name}, tried in small ({found.id}):"
    yield from _told(found.forecast)
    if found.wait_seconds is not None:
        yield f"  queue     about {duration(found.wait_seconds)} if it were submitted now"
    for problem in found.forecast.problems:
        yield f"  PROBLEM   {problem}"
    for assumption in found.forecast.assumptions:
        yield f"  {assumption}"


def _told(forecast: Forecast) -> Iterator[str]:
    yield f"  memory    {forecast.memory.sentence}"
    if forecast.seconds is not None and forecast.device_hours is not None:
        stages = (f"{stage.stage} {_span(stage.seconds)}" for stage in forecast.stages if stage.seconds.high >= 1)
        yield f"  time      {_span(forecast.seconds)}: {', '.join(stages)}"
        hours = forecast.device_hours
        yield f"  devices   {hours.low:.3g} to {hours.high:.3g} device-hours, on up to {forecast.workers} worker(s)"
    for what, speed in (("profile", forecast.profile), ("groups", forecast.groups)):
        if speed is not None:
            each, rate = speed.seconds_per_step, speed.images_per_second
            yield (
                f"  {what:9} {rate.low:.0f} to {rate.high:.0f} images/s on a device worker, {each.low:.3g} to "
                f"{each.high:.3g} s a step"
            )
    if forecast.bundle_bytes is not None:
        size = forecast.bundle_bytes * (1 / 1000)
        yield f"  bundle    {size.low:.0f} to {size.high:.0f} kB"
    read = sum(task.num_read for task in forecast.tasks)
    bad = [f"{task.task}: {key}" for task in forecast.tasks for key in task.unreadable]
    named = f" ({', '.join(bad[:20])})" if bad else ""
    yield f"  images    {read} read, {sum(task.num_unreadable for task in forecast.tasks)} of them unreadable{named}"


def _span(seconds: Interval) -> str:
    return f"{duration(seconds.low)} to {duration(seconds.high)}"
