"""Captures of a batch as tasks of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .batch_work import CapturePlan, CaptureRow, StepRow, work_through

MOST_TRIES = 3
"""A capture whose worker died goes on in another one, so often."""


def work_far_away(plan: CapturePlan) -> CaptureRow:
    """All steps of one capture, in a process of the cluster."""
    return work_through(plan, lambda *_: None, lambda: False)


def rows_from_ray(
    ray: Any, plans: Sequence[CapturePlan], threads: int, *, stop_at_failure: bool
) -> Iterator[CaptureRow]:
    """Work on captures on a cluster; each row comes when its capture has ended.

    Args:
        ray: The connected module.
        plans: The captures.
        threads: Processors that each capture takes.
        stop_at_failure: Begin no other capture when one has failed.
    """
    task = ray.remote(num_cpus=threads, max_retries=MOST_TRIES)(work_far_away)
    running = {task.remote(plan): plan for plan in plans}
    has_failed = False
    while running:
        (finished,), _ = ray.wait(list(running), num_returns=1)
        plan = running.pop(finished)
        try:
            row = ray.get(finished)
        except ray.exceptions.TaskCancelledError:
            row = CaptureRow(plan.name, plan.folder, tuple(StepRow(s.name, "interrupted") for s in plan.steps))
        except ray.exceptions.RayError as error:
            line = " ".join(str(error).split())[:200]
            failed = StepRow(plan.steps[0].name, "failed", error=f"its worker ended ({line})", code=1)
            row = CaptureRow(plan.name, plan.folder, (failed,))
        yield row
        if row.state == "failed" and stop_at_failure and not has_failed:
            has_failed = True
            for reference in running:
                ray.cancel(reference)  # those that run are interrupted, and save
