"""Hidden pictures and sounds: `nsx stega embed RUN --image F`, and `nsx stega extract` with the decoder of a scene."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from ..progress import Progress
    from ..stages.stega.hidden_extraction import HiddenFinding
    from ..stages.stega.hidden_payload import Hidden
    from ..stages.stega.hidden_run import HiddenRun
    from ..stages.stega.keys import Key
    from .console import Output

_ROWS = 24
"""Pictures listed one by one."""


def hidden_of(image: Path | None, audio: Path | None) -> Hidden:
    """What is to be hidden, from one of two files.

    Raises:
        UserError: if both were given, or the file cannot be used.
    """
    from ..stages.stega.hidden_payload import hidden_image, hidden_sound

    if image is not None and audio is not None:
        raise UserError("a picture and a sound were given", where="nsx stega embed", fix="Give one of them")
    if image is not None:
        return hidden_image(image)
    assert audio is not None
    return hidden_sound(audio)


def say_hidden(child: HiddenRun, out: Output) -> None:
    """How hiding went."""
    check = child.check
    rows: dict[str, object] = {
        "marked run": child.path,
        "decoder": child.decoder,
        "fidelity": f"{check.psnr:.1f} dB against unmarked, worst view {check.worst_psnr:.1f} dB",
    }
    if child.marking.touch_up_gain is not None:
        rows["touch-up"] = f"{child.marking.touch_up_gain:+.2f} dB against photos, before the mark"
    for name in check.present:
        rows[f"read back, {name}"] = (
            f"{check.present[name]} of {check.pictures} pictures recognised, SSIM {check.similarity[name]:.3f}; "
            f"of unmarked ones {check.false_alarms[name]}"
        )
    out.box("Marked", rows)
    out.say("\nWho has the decoder file has what is hidden: keep it apart from the run."
            f"\nRead it from any picture: nsx stega extract PICTURE --decoder {child.decoder}")  # fmt: skip
    if min(check.present.values()) < check.pictures:
        out.warn("not every picture is recognised: use more --steps or a lower --psnr")


def extract_with_decoder(
    source: Path, decoder_file: Path, key: Key | None, output_dir: Path, max_frames: int, progress: Progress
) -> tuple[HiddenFinding, dict[str, Any]]:
    """Look for what is hidden; write it where it is found.

    Args:
        source: Pictures.
        decoder_file: Of the scene.
        key: Where given, it must be the one the decoder was sealed with.
        output_dir: Gets `hidden.png` or `hidden.wav`.
        max_frames: Frames of a video to look at.
        progress: Told about each picture.
    Returns:
        What was found, and the JSON object.
    Raises:
        UserError: if a file cannot be read, or the decoder was sealed with another key.
    """
    from ..stages.stega.hidden_extraction import extract_hidden, is_sealed_with
    from ..stages.stega.hidden_payload import write_hidden
    from ..stages.stega.picture_decoder import load_decoder
    from ..stages.stega.picture_files import views_of

    decoder, notes = load_decoder(decoder_file)
    if key is not None and not is_sealed_with(key, decoder, notes):
        raise UserError("made under another key", where=decoder_file, fix="Leave the key out, or check it")
    found = extract_hidden(views_of(source, progress, max_frames=max_frames), decoder, progress)
    answer = found.to_json()
    if found.values is not None:
        path = write_hidden(decoder.form, found.values, notes, output_dir)
        answer["payload"] = {"kind": decoder.form.kind, "path": str(path)}
    return found, {**answer, "key_matches": None if key is None else True}


def say_found(found: HiddenFinding, answer: dict[str, Any], out: Output) -> None:
    """What was found."""
    n = len(found.views)
    pictures = "1 picture" if n == 1 else f"{n} pictures"
    odds = f"p = {found.p_value:.2g}, from unmarked examples"
    if answer["payload"] is None:
        out.say(f"nothing hidden was found in {pictures} (probability {100 * found.probability:.0f} %; {odds})")
        return
    what = "a picture" if answer["payload"]["kind"] == "image" else "a sound"
    out.say(f"found {what} in {pictures} (probability {100 * found.probability:.1f} %; {odds})")
    rows = {view.name: f"probability {100 * view.probability:5.1f} %" for view in found.views[:_ROWS]}
    if n > _ROWS:
        rows["..."] = f"and {n - _ROWS} more"
    out.box(f"written to {answer['payload']['path']}", rows)
