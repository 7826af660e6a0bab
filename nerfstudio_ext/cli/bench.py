"""`nsx bench`: how fast the kernels are on this machine, against the plain reference, in one run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from ..errors import UserError
from .console import Output
from .options import CommonOptions
from .parsing import did_you_mean

SUBJECTS = ("cpu", "cuda", "aug", "gnt", "viewer", "cluster")


@dataclass(frozen=True)
class BenchOptions(CommonOptions):
    """Options of `nsx bench`."""

    subject: tyro.conf.Positional[str] = "cpu"
    """What to measure: cpu (kernels against the reference), cuda (needs an NVIDIA GPU; eight minutes), aug (augmented
    against plain training steps), gnt (its fused form against the plain one, memory, the first picture of a capture),
    viewer (every target of the live viewer, with stand-in browsers; some minutes) or cluster (two processes of one
    thread against one, in training and in rendering; needs Ray and two idle cores; some minutes)."""

    data: Path | None = None
    """For cuda and cluster: a capture to train on, for cuda in Blender's format (default: a computed ball)."""


def options_for(argv: list[str]) -> tuple[type[BenchOptions], list[str]]:
    """One kind of options."""
    return BenchOptions, argv


def run(options: BenchOptions, out: Output) -> int | None:
    """Measure, print the ratios; 1 when a check of `cuda` failed."""
    if options.subject not in SUBJECTS:
        hint = did_you_mean(options.subject, SUBJECTS)
        raise UserError(
            f"'{options.subject}' cannot be measured{hint}", where="nsx bench", fix=f"Use one of: {', '.join(SUBJECTS)}"
        )
    if options.subject == "cuda":
        return _run_cuda(options, out)
    if options.subject == "viewer":
        _run_viewer(out)
        return None
    if options.subject == "gnt":
        _run_gnt(out)
        return None
    if options.subject == "cluster":
        _run_cluster(options, out)
        return None
    from ..bench import bench_aug, bench_cpu

    bench, title = bench_cpu, "Ratios against the reference (larger is faster)"
    if options.subject == "aug":
        bench, title = bench_aug, "Cost against a plain training step (smaller is faster)"
    with out.progress() as progress:
        result = bench(progress)
    out.box(title, {k: f"{v:.2f} x" for k, v in result["ratios"].items()})
    out.box("Rates", {k: f"{v:,.0f}" for k, v in result.items() if isinstance(v, (int, float)) and k != "schema"})
    out.result(result)
    return None


def _run_gnt(out: Output) -> None:
    from ..bench_gnt import bench_gnt

    with out.progress() as progress:
        result = bench_gnt(progress)
    out.box("Ratios against plain torch (larger is faster)", {k: f"{v:.2f} x" for k, v in result["ratios"].items()})
    out.box("Figures", {k: v for k, v in result.items() if k not in ("schema", "ratios")})
    out.result(result)


def _run_cluster(options: BenchOptions, out: Output) -> None:
    from ..bench_cluster import bench_cluster

    with out.progress() as progress:
        result = bench_cluster(progress, data=options.data)
    rows = {k: f"{v:.2f} x" for k, v in result["ratios"].items()}
    out.box("Ratios of two single-threaded processes to one (larger is faster)", rows)
    out.box("Figures", {k: v for k, v in result.items() if k not in ("schema", "ratios")})
    out.result(result)


def _run_cuda(options: BenchOptions, out: Output) -> int:
    from ..kernels.bench_cuda.__main__ import measure

    result = measure(data=options.data, write=out.say)
    out.result(result)
    return 1 if result["failed_checks"] else 0


def _run_viewer(out: Output) -> None:
    from ..viewer_bench.run import bench_viewer

    with out.progress() as progress:
        result = bench_viewer(progress)
    rows = {}
    for name, figure in result.items():
        if isinstance(figure, dict):
            verdict = "met" if figure["met"] else "MISSED"
            rows[f"{name} {verdict}"] = f"{figure['value']} of {figure['target']}: {figure['about']}"
    out.box("Targets of the viewer", rows)
    out.result(result)
