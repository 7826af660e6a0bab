"""`nsx batch MANIFEST.json`: poses, training, scores, films and marks of many captures; the same command continues."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..errors import UserError
from .batch_plan import capture_plan
from .console import Output, clock
from .environment import usable_cores
from .options import CommonOptions, one_of

if TYPE_CHECKING:
    from ..cluster.batch_work import CapturePlan, CaptureRow, StepRow
    from ..cluster.manifest import StepName
    from ..progress import Progress


@dataclass(frozen=True)
class BatchOptions(CommonOptions):
    """Options of `nsx batch`."""

    manifest: tyro.conf.Positional[Path | None] = None
    """JSON file: {"schema": 1, "captures": [{"input": "photos/fox"}, ...]}. Also: "output_dir", "defaults", and for
    each capture "name" and the steps process, train, eval, render and embed: true, false, or an object of options as
    the command takes them. All but embed are on. Paths are relative to the file."""

    jobs: int = 1
    """Captures worked on at once."""

    fail_fast: bool = False
    """Stop everything when a step has failed; what was interrupted goes on with the next start."""

    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS|local")] = None
    """Work on a Ray cluster: HOST:PORT, ray://HOST:PORT or auto; `local` starts one on this machine. Inputs and results
    must have the same paths on every node. Needs the extra [cluster]."""

    capture_threads: int | None = None
    """Threads of the work on one capture (default: the cores of this machine divided by --jobs; on Ray 1)."""


def options_for(argv: list[str]) -> tuple[type[BatchOptions], list[str]]:
    """One kind of options."""
    return BatchOptions, argv


def run(options: BatchOptions, out: Output) -> int:
    """Check everything, work, tell; 0 when all is done, 2 or 1 when something failed, 130 when interrupted."""
    source = one_of("batch", "MANIFEST", options.manifest)

    from ..cluster.batch_page import batch_page
    from ..cluster.batch_work import row_data
    from ..cluster.manifest import read_manifest
    from ..exporters.pictures import write_whole

    for name in ("jobs", "capture_threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(
                f"{value} is less than 1", where=f"--{name.replace('_', '-')}", fix="Give it a number from 1"
            )
    manifest = read_manifest(source)
    threads = options.capture_threads or (1 if options.ray else max(1, usable_cores() // options.jobs))
    plans = [capture_plan(job, manifest, threads) for job in manifest.captures]
    manifest.output_dir.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with out.progress() as progress:
        teller = _Teller(plans, progress, out)
        rows = _on_ray(options, plans, threads, teller) if options.ray else _here(options, plans, teller)
    page = manifest.output_dir / "report.html"
    write_whole(page, batch_page(f"{source.stem}: {len(rows)} captures", rows, page).encode())
    out.say()
    for line in summary_lines(rows):
        out.say(line)
    n_done = sum(row.state == "done" for row in rows)
    out.say(f"\n{n_done} of {len(rows)} captures done in {clock(time.monotonic() - began)}; report: {page}")
    if n_done < len(rows):
        out.say("The same command does what is missing.")
    out.result({"captures": [row_data(row) for row in rows], "done": n_done, "report": page})
    if teller.interruption is not None:
        raise teller.interruption
    return max((_exit_code(step.code) for row in rows for step in row.steps if step.state == "failed"), default=0)


class _Teller:
    """Shows steps as they begin and end, and remembers whether to stop."""

    def __init__(self, plans: Sequence[CapturePlan], progress: Progress, out: Output) -> None:
        self._progress, self._out = progress, out
        self._done, self._busy = 0, dict[str, str]()
        self.has_failed = False
        self.interruption: KeyboardInterrupt | None = None
        self._n_steps = sum(len(plan.steps) for plan in plans)
        progress.stage(f"{len(plans)} captures", self._n_steps)

    def told(self, capture: str, row: StepRow | None, step: StepName) -> None:
        """A step begins (None), or has ended."""
        if row is None:
            self._busy[capture] = step
        else:
            self._busy.pop(capture, None)
            self._done += 1
            self.has_failed |= row.state == "failed"
            if row.state == "failed":
                self._progress.warn(f"{capture}: {step} failed: {row.error}")
            elif row.state == "done" and not row.is_old:
                self._out.say(f"{capture}: {step} done in {clock(row.seconds)}{_figure(row)}")
        self._progress.advance(self._done, ", ".join(f"{name}: {doing}" for name, doing in self._busy.items()))

    def told_all(self, row: CaptureRow) -> None:
        """A capture came back from another machine."""
        for step in row.steps:
            self.told(row.name, step, step.name)


def _here(options: BatchOptions, plans: Sequence[CapturePlan], teller: _Teller) -> list[CaptureRow]:
    from concurrent.futures import ThreadPoolExecutor

    from ..cluster.batch_work import work_through

    def should_stop() -> bool:
        return teller.interruption is not None or (options.fail_fast and teller.has_failed)

    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = [pool.submit(work_through, plan, teller.told, should_stop) for plan in plans]
        try:
            return [job.result() for job in jobs]
        except KeyboardInterrupt as interruption:  # the commands are stopped: they save, and their captures come back
            teller.interruption = interruption
            return [job.result() for job in jobs]


def _on_ray(options: BatchOptions, plans: Sequence[CapturePlan], threads: int, teller: _Teller) -> list[CaptureRow]:
    from ..cluster.batch_ray import rows_from_ray
    from ..cluster.ray_cluster import connected

    cpus = usable_cores() if options.jobs == 1 else options.jobs * threads
    with connected(str(options.ray), max(threads, cpus)) as ray:
        found = {}
        for row in rows_from_ray(ray, plans, threads, stop_at_failure=options.fail_fast):
            teller.told_all(row)
            found[row.name] = row
        return [found[plan.name] for plan in plans]


def summary_lines(rows: Sequence[CaptureRow]) -> list[str]:
    """The table of all captures, a line each."""
    head = ("capture", "photos", "steps", "PSNR", "SSIM", "film", "mark", "time", "")
    table = [head]
    for row in rows:
        score, film = row.result("eval"), row.result("render")
        first_bad = next((step for step in row.steps if step.state == "failed"), None)
        state = row.state if first_bad is None else f"{first_bad.name} failed: {first_bad.error}"
        table.append(
            (
                row.name, _shown(row.result("process").get("registered")), _shown(row.result("train").get("steps")),
                _shown(score.get("psnr"), ".2f"), _shown(score.get("ssim"), ".3f"),
                f"{film['frames']} frames" if "frames" in film else "", "yes" if row.result("embed") else "",
                clock(sum(step.seconds for step in row.steps)), state if len(state) < 80 else state[:77] + "...",
            )
        )  # fmt: skip
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]


def _shown(value: Any, form: str = "") -> str:
    return format(value, form) if isinstance(value, (int, float)) else ""


def _figure(row: StepRow) -> str:
    psnr = row.result.get("psnr")
    return f"   {psnr:.2f} dB" if isinstance(psnr, (int, float)) else ""


def _exit_code(code: int) -> int:
    return 2 if code == 2 else 1
