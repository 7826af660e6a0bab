"""How much training a still browser costs, and when it gets its first picture.

Run it as `python -m tests.viewer.measure_share CAPTURE`.

Trains once with the viewer served. A browser (a WebSocket client that answers like one but draws nothing) is there at
the start; then it comes and goes in equal windows. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nerfstudio_ext.viewer_bench.browser import FakeBrowser, cookie_from

SIZE = (1280, 720)
LINK = r"Viewer: (http://127\.0\.0\.1:(\d+)/\?token=\w+)"
WAITING_HEIGHT = 480
"""Height of the picture that says that the first one is on its way; pictures of the scene are smaller or larger."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("capture", type=Path)
    parser.add_argument("--window", type=float, default=10.0, help="seconds with or without the browser")
    parser.add_argument("--pairs", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options.capture, options.window, options.pairs, Path(folder))))


def measure(capture: Path, window: float, pairs: int, folder: Path) -> dict[str, float]:
    """Seconds to the first picture, and steps per second with the browser over those without."""
    seconds = (window + 2) * (2 * pairs + 3)
    command = [
        sys.executable, "-m", "nerfstudio_ext", "train", "ngp", str(capture), "--output-dir", str(folder),
        "--max-train-seconds", str(seconds + 60), "--max-images", "0", "--steps-per-save", "1000000",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = iter(process.stdout.readline, "")
        link, port = next(found.groups() for line in lines if (found := re.search(LINK, line)))
        port, cookie = int(port), cookie_from(link)
        browser = FakeBrowser(port, cookie)
        browser.look(size=SIZE)
        next(line for line in lines if line.startswith("train ..."))
        started = time.perf_counter()
        first = browser.wait_for(lambda picture: picture.rgb.shape[0] != WAITING_HEIGHT, timeout=60).at - started
        time.sleep(2 * window)  # the first steps are not like the later ones
        browser.close()
        with_browser, without = [], [steps_per_second(folder, window)]
        for _ in range(pairs):
            browser = FakeBrowser(port, cookie)
            browser.look(size=SIZE)
            time.sleep(2.0)  # who stays pays for the first pictures once
            with_browser.append(steps_per_second(folder, window))
            browser.close()
            time.sleep(0.5)
            without.append(steps_per_second(folder, window))
    finally:
        process.terminate()
        process.communicate()
    around = [(before + after) / 2 for before, after in zip(without, without[1:], strict=False)]
    ratios = sorted(rate / alone for rate, alone in zip(with_browser, around, strict=True))
    return {
        "first_picture_s": round(first, 2),
        "share": round(statistics.median(ratios), 4),
        "lowest": round(ratios[0], 4),
        "highest": round(ratios[-1], 4),
        "steps_per_s_without": round(statistics.median(without), 2),
    }


def steps_per_second(folder: Path, window: float) -> float:
    """Steps done in the next `window` seconds of training."""
    before = last_row(folder)
    time.sleep(window)
    after = last_row(folder)
    return (after["step"] - before["step"]) / (after["train_seconds"] - before["train_seconds"])


def last_row(folder: Path) -> dict[str, float]:
    """The newest complete line of the run's metrics."""
    text = next(folder.rglob("metrics.jsonl")).read_text()
    row: dict[str, float] = json.loads(text[: text.rindex("\n")].splitlines()[-1])
    return row


if __name__ == "__main__":
    main()
