"""One sitting of training: viewer, loop, comparison with held-out photos, report, result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TrainingFailed, UserError
from .console import LineProgress, Output, TerminalProgress, clock
from .view import wait_for_interrupt

if TYPE_CHECKING:
    from ..methods.protocol import Method
    from ..renderer import RayRenderer, Renderer
    from ..scenes.model import Scene
    from ..training.evaluate import EvalResult
    from ..training.runs import OpenedRun, Run
    from ..training.team import Team
    from ..training.trainer import TrainResult
    from ..viewer import ViewerServer

IMAGES_WHILE_TRAINING = 4
"""Held-out photos that a look during training compares: enough to see a trend, few enough not to hold training up."""


@dataclass
class Session:
    """Trains a method in its run folder and tells about it.

    Attributes:
        options: `TrainOptions`, or what has its fields `viewer`, `host`, `port`, `keep_viewer`, `max_images`.
        out: Where words go.
        progress: Shows the stages.
        run: The run folder, open for writing.
        scene: The capture.
        method: Built for it.
        seconds: Time of the stages before, by name; goes into the result.
        after_training: Further work on the trained scene; returns lines for the box at the end.
        viewer: The live viewer, while there is one.
        preview: What the viewer shows until the trained field is better.
        team: The processes that train together; None where this one trains alone.
    """

    options: Any
    out: Output
    progress: LineProgress | TerminalProgress
    run: Run
    scene: Scene
    method: Method
    seconds: dict[str, float] = field(default_factory=dict)
    after_training: Callable[[Session], dict[str, object]] | None = None
    viewer: ViewerServer | None = None
    preview: str | None = None
    team: Team | None = None

    def train(self, *, resume: bool = False) -> int:
        """Train to the end or to a signal, compare, report, tell; returns the exit code."""
        from .thumbnails import write_thumbnails

        self.progress.finish()
        write_thumbnails(self.scene, self.run.path)
        self.out.say(f"Run: {self.run.path}   ({self.scene.meta.kind})")
        if self.options.viewer:
            self.viewer = self._start_viewer()
        try:
            if self.viewer is not None and self.preview is not None:
                _show_preview(self, self.viewer)
            result = self._train(resume)
            scores = report = None
            more: dict[str, object] = {}
            if result.exit_code == 0:  # after a signal whoever sent it waits
                scores = self._evaluate()
                report = self._write_report(result, scores)
                more = self.after_training(self) if self.after_training is not None else {}
            self.progress.finish()
            title = "Stopped; everything is saved" if result.exit_code else "Done"
            self.out.box(title, _rows(self, result, scores, report) | more)
            self.out.result(self._summary(result, scores))
            if self.viewer is not None and self.options.keep_viewer and result.exit_code == 0:
                self.out.say(f"\nThe viewer stays open at {self.viewer.link()}   (Ctrl+C ends)")
                _wait_until_told_to_end()
            return result.exit_code
        finally:
            if self.viewer is not None:
                self.viewer.close()

    def _train(self, resume: bool) -> TrainResult:
        from ..training.trainer import Trainer

        config = self.run.config.train
        parts = (self.method, self.scene, config, self.run, self.viewer, self.progress)
        trainer = Trainer(*parts, test_psnr=self._test_psnr, team=self.team)
        if resume:
            self.out.say(f"resuming from step {trainer.resume()}")
        self.progress.stage("preparing kernels (longer the first time)")
        try:
            return trainer.train()
        except TrainingFailed as failure:
            raise type(failure)(f"{self.run.path}: {failure}") from failure

    def _start_viewer(self) -> ViewerServer:
        from ..kernels import set_threads
        from ..training.checkpoints import list_checkpoints
        from ..training.snapshots import FOLDER as SNAPSHOTS
        from ..viewer import Site, ViewerServer
        from .paths import up_of
        from .view_exports import exports_of
        from .viewer_links import link_lines, viewer_secret

        meta = self.scene.meta
        indices = list(meta.split.train)
        viewer = ViewerServer(
            meta.training_cameras().select(indices),
            [self.scene.images.pixels(index) for index in indices],
            site=Site(
                folder=self.run.path,
                frame=meta.frame,
                photo_names=[meta.image_names[i] for i in indices],
                has_trainer=True,
                exports=exports_of(self._saved),
                content_id=lambda: self.run.path.name,
            ),
            up=up_of(meta),
            host=self.options.host,
            port=self.options.port,
            names=self.options.allow_host,
            secret=viewer_secret(),
            label=meta.name,
            set_threads=set_threads,
            notice=self.progress.warn,
        )
        viewer.answered("", tuple(step for step, _ in list_checkpoints(self.run.path / SNAPSHOTS)))
        for line in link_lines(viewer):
            self.out.say(line)
        return viewer

    def _saved(self) -> OpenedRun:
        """The run as its newest checkpoint has it."""
        from ..training.checkpoints import list_checkpoints
        from ..training.runs import open_run

        if not list_checkpoints(self.run.checkpoints):
            raise UserError("nothing was saved yet", where=self.run.path, fix="Wait for the first checkpoint")
        return open_run(self.run.path)

    def _summary(self, result: TrainResult, scores: EvalResult | None) -> dict[str, Any]:
        final_eval = self.seconds.pop("final_eval_seconds", 0.0)
        return {
            "run": self.run.path,
            "steps": result.steps,
            "train_seconds": round(result.train_seconds, 3),
            "occupancy": result.stats.get("occupancy"),
            "psnr": None if scores is None else scores.psnr,
            "ssim": None if scores is None else scores.ssim,
            "stopped_by": result.stopped_by,
            **{name: round(value, 3) for name, value in self.seconds.items()},
            "compile_seconds": round(result.compile_seconds, 3),
            "eval_seconds": round(result.eval_seconds + final_eval, 3),
            "paused_seconds": round(result.paused_seconds, 3),
            "skipped_steps": result.n_skipped,
            "rollbacks": result.n_rollbacks,
            "stats": result.stats,
        }

    @property
    def eval_folder(self) -> Path:
        """Where the renders of held-out photos and their error maps go."""
        return self.run.path / "renders" / "eval-test"

    def renderer(self) -> RayRenderer:
        """The scene as it is now."""
        from ..renderer import RayRenderer

        return RayRenderer(self.method.render_rays, self.scene.meta.background)

    def _evaluate(self) -> EvalResult | None:
        """The comparison with held-out photos; None where there are none or none are wanted."""
        from ..methods import method_name
        from ..training.evaluate import evaluate

        limit = self.options.max_images
        if not self.scene.meta.split.test or limit == 0:
            return None
        began = time.perf_counter()
        scores = evaluate(
            self.renderer(),
            self.scene,
            "test",
            limit,
            self.eval_folder,
            method=method_name(self.run.config.method),
            progress=self.progress,
        )
        self.seconds["final_eval_seconds"] = time.perf_counter() - began
        return scores

    def _write_report(self, result: TrainResult, scores: EvalResult | None) -> Path:
        """report.html: curves, held-out views beside the truth, cameras, settings, timings."""
        from ..training.machine import describe_machine
        from ..training.metrics_log import read_metrics
        from ..training.report import ReportContent, report_views, training_notes, write_report

        seconds = {name.removesuffix("_seconds").replace("_", " "): value for name, value in self.seconds.items()}
        seconds |= {"compiling": result.compile_seconds, "training": result.train_seconds}
        views = [] if scores is None else report_views(self.scene, scores, renders=self.eval_folder)
        content = ReportContent(
            run=self.run.path,
            config=self.run.config,
            meta=self.scene.meta,
            steps=result.steps,
            metrics=read_metrics(self.run.metrics),
            timings={name: value for name, value in seconds.items() if value > 0},
            evaluation=scores,
            views=views,
            machine=describe_machine(),
            notes=training_notes(result),
        )
        return write_report(self.run.path / "report.html", content)

    def _test_psnr(self, renderer: Renderer) -> float:
        """The look at some test photos that `--steps-per-eval` asks for."""
        from ..training.evaluate import evaluate

        if not self.scene.meta.split.test:
            return math.nan
        return evaluate(renderer, self.scene, "test", IMAGES_WHILE_TRAINING).psnr


def _rows(session: Session, result: TrainResult, scores: EvalResult | None, report: Path | None) -> dict[str, object]:
    steps = f"{result.steps} steps in {clock(result.train_seconds)}, ended by {result.stopped_by}"
    rows: dict[str, object] = {"run": session.run.path, "training": steps}
    if scores is not None:
        n = len(scores.per_image)
        rows["test PSNR"] = f"{scores.psnr:.2f} dB over {n} held-out photos (SSIM {scores.ssim:.3f})"
    if report is not None:
        rows["report"] = report
    if result.exit_code:
        rows["go on"] = f"nsx train --resume {session.run.path}"
    rows["look again"] = f"nsx view {session.run.path}"
    if session.after_training is None:
        rows["make a film"] = f"nsx render {session.run.path} --path orbit --output-path orbit.mp4"
    return rows


def _show_preview(session: Session, viewer: ViewerServer) -> None:
    """Let the viewer show pictures before there is anything trained."""
    from ..methods.gnt_preview import make_preview

    session.progress.stage("preparing the preview")
    preview = make_preview(session.scene)
    viewer.set_preview(preview.renderer, "GNT preview", preview.psnr)
    session.out.say(f"The viewer shows a preview of about {preview.psnr:.1f} dB until training is better")


def _wait_until_told_to_end() -> None:
    """Sleep until Ctrl+C, which is then no interruption: everything is done. SIGTERM ends the process as ever."""
    try:
        wait_for_interrupt()
    except KeyboardInterrupt as ending:
        if type(ending) is not KeyboardInterrupt:
            raise
