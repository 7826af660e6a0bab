"""The phases of the benchmark in their order, what each needs, and the figures that come of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..cuda_launch import ENTRIES, program_of
from ..cuda_sizes import FieldSizes
from ..rtc import Module, Toolchain, toolchain
from ..rtc_cache import DiskCache
from . import ceilings, checks, micro, rendering, training
from .baselines import plain_samples, sampler
from .report import Report, verdicts
from .scene import Pictures, load_blender, make_ball

COMMON_SECONDS, CLOCK_SECONDS, PLAIN_SECONDS = 10.0, 60.0, 20.0
MEMCHECK_SECONDS = 40
LEAST_PSNR, MOST_DIFFERENCE = 45.0, 2 / 255
"""Between pictures of one trained field, fused and by the reference."""


class Protocol:
    """One run.

    Args:
        report: Where results go.
        data: A capture in Blender's format; None takes a computed ball.
    """

    def __init__(self, report: Report, data: Path | None) -> None:
        self.report, self.data = report, data
        self.figures: dict[str, Any] = {}
        self._pictures: tuple[Pictures, Pictures] | None = None
        self._common: training.Ours | None = None
        self._trained: training.Ours | None = None
        self._curve: dict[str, Any] = {}

    def run(self, only: Sequence[str] | None = None) -> None:
        """All phases, or some; checks that fail stop the timing."""
        phases: tuple[tuple[str, float, Callable[[], dict[str, Any]]], ...] = (
            ("machine", 1, ceilings.machine),
            ("ceilings", 10, ceilings.ceilings),
            ("compile", 10, self._compile),
            ("correctness", 20, self._check),
            ("micro", 40, lambda: micro.time_kernels(self.pictures()[0])),
            ("rendering", 40, self._render),
            ("training ours", CLOCK_SECONDS + 10, self._train_ours),
            ("training baseline", CLOCK_SECONDS + 15, self._train_baseline),
            ("training plain torch", PLAIN_SECONDS + 10, self._train_plain),
            ("graph", 5, self._graph),
            ("training fast preset", 25, self._train_fast),
            ("memcheck", MEMCHECK_SECONDS, self._memcheck),
        )
        for name, needs, phase in phases:
            if only is None or name in only:
                self.report.run(name, needs, phase)
            if name == "correctness" and self.report.data["failed_checks"]:
                self.report.say("no timings of kernels that are not correct")
                break
        self.report.data["figures"] = self.figures
        self.report.data["verdicts"] = verdicts(self.figures)
        self.report.data["clocks_at_end"] = ceilings.clocks()
        self.report.flush()
        for name, verdict in self.report.data["verdicts"].items():
            self.report.say(f"{name:24} {verdict}")

    def pictures(self) -> tuple[Pictures, Pictures]:
        """Training and test photos, loaded once."""
        if self._pictures is None:
            if self.data is not None:
                self._pictures = load_blender(self.data, "train", "cuda"), load_blender(self.data, "test", "cuda", 25)
            else:
                self._pictures = make_ball("cuda"), make_ball("cuda", tests=True)
            width, height = self._pictures[0].size
            name = self.data.name if self.data else "computed ball"
            self.report.data["scene"] = f"{name}, {len(self._pictures[0])} photos of {width}x{height}"
        return self._pictures

    def _compile(self) -> dict[str, Any]:
        """All kernels from an empty cache, then from the filled one."""
        own, device = toolchain(), torch.device("cuda", torch.cuda.current_device())
        shape = FieldSizes(16, 2, 64, 64)
        programs = {entry.file: program_of(name, shape) for name, entry in ENTRIES.items()}
        found: dict[str, Any] = {"nvrtc": own.nvrtc.version, "resources": {}}
        with tempfile.TemporaryDirectory() as folder:
            tools = Toolchain(own.nvrtc, own.driver, DiskCache(Path(folder)))
            for kind in ("cold", "warm"):
                began = time.perf_counter()
                modules = [Module(program, device, tools) for program in programs.values()]
                self.figures[f"compile_{kind}_s"] = found[f"{kind}_s"] = time.perf_counter() - began
        for module in modules:
            found["resources"] |= {name: vars(used) for name, used in module.resources.items()}
        spilling = [name for name, used in found["resources"].items() if used["spill_bytes"]]
        if spilling:
            self.report.fail(f"compile: {', '.join(spilling)} spill registers")
        return found

    def _check(self) -> dict[str, Any]:
        found = checks.check_all()
        for name, error in found["failed"].items():
            self.report.fail(f"correctness: {name} is off by {error:.2g}, bound {checks.BOUNDS[name]:g}")
        return found

    def _render(self) -> dict[str, Any]:
        pictures, _ = self.pictures()
        self._common = training.Ours(pictures)
        training.train_by_clock(self._common, None, COMMON_SECONDS)
        found = rendering.compare_renderers(self._common.field, self._common.state.occupancy(), pictures)
        small, large = found["800x800"], found["1920x1080"]
        self.figures["frame_800_ms"], self.figures["frame_1080_ms"] = small["fused_ms"], large["fused_ms"]
        self.figures["fused_over_unfused"] = small["fused_over_unfused"]
        self.figures["fused_over_baseline"] = small["baseline"]["fused_faster"]
        difference = found["reference_difference"]
        if difference["psnr_db"] < LEAST_PSNR or difference["largest"] > MOST_DIFFERENCE:
            self.report.fail(f"rendering: the fused picture differs from the reference's, {difference}")
        return found

    def _train_ours(self) -> dict[str, Any]:
        pictures, tests = self.pictures()
        torch.cuda.reset_peak_memory_stats()
        self._trained = training.Ours(pictures)
        self._curve = training.train_by_clock(self._trained, tests, CLOCK_SECONDS)
        self.figures["step_ms"] = self._curve["ms_per_step"]
        final = training.psnr_of(self._trained, tests, most=25)
        return {**self._curve, "final_psnr": final, "peak_gib": torch.cuda.max_memory_allocated() / 2**30}

    def _train_baseline(self) -> dict[str, Any]:
        pictures, tests = self.pictures()
        name, sample = sampler()
        use_compile = self._compile_is_faster(pictures, sample)
        torch.cuda.reset_peak_memory_stats()
        found = training.train_by_clock(
            training.Baseline(pictures, sample, use_compile=use_compile), tests, CLOCK_SECONDS
        )
        sooner = training.sooner(self._curve, found)
        self.figures["sooner"] = sooner.get("ratio")
        if self._curve:
            self.figures["train_rays_ratio"] = self._curve["rays_per_s"] / found["rays_per_s"]
        peak = torch.cuda.max_memory_allocated() / 2**30
        return {"kind": name, "torch_compile": use_compile, **found, "sooner": sooner, "peak_gib": peak}

    def _compile_is_faster(self, pictures: Pictures, sample: Any) -> bool:
        """Whether `torch.compile` works here and speeds the baseline up: it may have that advantage too."""

        def rate(use_compile: bool) -> float:
            trainer = training.Baseline(pictures, sample, use_compile=use_compile)
            return float(training.train_by_clock(trainer, None, 3.0)["rays_per_s"])

        plain = rate(False)  # a fault here is one of the phase and no reason to blame the compiler
        try:
            return rate(True) > plain
        except Exception as fault:  # noqa: BLE001 - whatever it lacks (a C compiler, Triton): then not
            self.report.say(f"  torch.compile does not work here: {type(fault).__name__}: {fault}"[:300])
            return False

    def _train_plain(self) -> dict[str, Any]:
        pictures, _ = self.pictures()
        return training.train_by_clock(training.Baseline(pictures, plain_samples), None, PLAIN_SECONDS)

    def _train_fast(self) -> dict[str, Any]:
        pictures, tests = self.pictures()
        return training.train_by_clock(training.Ours(pictures, "L8F4"), tests, 20.0)

    def _graph(self) -> dict[str, Any]:
        trained = self._trained or self._common or training.Ours(self.pictures()[0])
        found = training.graph_against_eager(trained)
        self.figures["graph_ratio"] = found["ratio"]
        return found

    def _memcheck(self) -> dict[str, Any]:
        """The toolkit's memory checker on one small correctness case, where there is one."""
        tool = shutil.which("compute-sanitizer")
        if tool is None:
            return {"result": "not run: compute-sanitizer is not installed"}
        script = "from nerfstudio_ext.kernels.bench_cuda import checks; checks.small_case()"
        command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-c", script]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=MEMCHECK_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return {"result": f"not finished within {MEMCHECK_SECONDS} s"}
        if done.returncode == 9:
            self.report.fail("memcheck found invalid accesses")
        return {"result": f"exit code {done.returncode}", "tail": done.stdout[-600:]}
