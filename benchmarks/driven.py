"""An avatar with sounds that it was not filmed with: does the mouth follow, does it rest in silence, does it tremble?

    python3 benchmarks/driven.py output/anna/avatar.safetensors data/anna french.wav chinese.wav [--out FILE]

The first row is the true clip with its own sound, to compare with; the last two are silence. Poses, brows and lids are
the clip's, and in the last row those of its first frame all the time: what the tracker makes of a moving head is no
motion of the mouth. What the columns say: `instag.metrics.driven.driven_metrics`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), *(str(path) for path in sorted((ROOT / "submodules").iterdir()))]

import numpy as np  # noqa: E402
from timing import environment, table  # noqa: E402

from instag.api import load_avatar  # noqa: E402
from instag.avatar import Avatar  # noqa: E402
from instag.data.dataset import SubjectDataset  # noqa: E402
from instag.data.layout import FPS, SAMPLE_RATE  # noqa: E402
from instag.metrics.driven import driven_metrics  # noqa: E402
from instag.metrics.landmarks import track_faces  # noqa: E402
from instag.synthesize import Speech, draw_frames, load_speech, speech_of, track_schedule  # noqa: E402


def cut(speech: Speech, frames: int) -> Speech:
    """At most so many frames of it."""
    return Speech(speech.features[:frames], speech.samples[: frames * speech.rate // FPS], speech.rate)


def driven(avatar: Avatar, speech: Speech, track_length: int) -> dict[str, float]:
    """Figures of the avatar with a sound, its clip's first so many poses, forward and back."""
    count = len(speech.features)
    schedule = track_schedule(track_length, count)
    pictures = (
        picture
        for batch in draw_frames(avatar, schedule, speech.features.to(avatar.device), avatar.expression[schedule])
        for picture in batch
    )
    return {"frames": count, **driven_metrics(track_faces(pictures), speech.samples)}


def rows(avatar: Avatar, subject: Path, sounds: list[Path], frames: int) -> Iterator[tuple[str, dict[str, float]]]:
    """(name, figures): the true clip, each sound, silence, silence with the head still."""
    with SubjectDataset.open(subject, size=avatar.size, extractor=None) as dataset:
        shown = list(range(min(frames, len(dataset))))
        samples, rate = dataset.sound_of(shown)
        if rate != SAMPLE_RATE:
            raise SystemExit(f"{subject}: its sound has {rate} Hz, {SAMPLE_RATE} are needed")
        truth = track_faces(dataset.picture(i).image for i in shown)
        yield "true clip", {"frames": len(shown), **driven_metrics(truth, samples)}
    norm = avatar.norm
    for path in sounds:
        yield path.stem, driven(avatar, cut(load_speech(path, avatar.model.extractor, norm), frames), len(avatar))
    silence = np.zeros(frames * SAMPLE_RATE // FPS, np.float32)
    quiet = cut(speech_of(silence, avatar.model.extractor, norm), frames)
    yield "silence", driven(avatar, quiet, len(avatar))
    yield "silence, head still", driven(avatar, quiet, 1)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("avatar", type=Path)
    parser.add_argument("subject", type=Path, help="its folder or pack: the true pictures")
    parser.add_argument("sounds", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each sound, at most")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    avatar = load_avatar(flags.avatar, flags.device)
    found = dict(rows(avatar, flags.subject, flags.sounds, round(flags.seconds * FPS)))
    print(table(found))
    if flags.out:
        flags.out.write_text(json.dumps({"environment": environment(), "rows": found}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
