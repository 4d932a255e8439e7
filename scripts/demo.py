"""The whole path on one person: process -> adapt -> synthesize -> evaluate, below output/demo/.

Called by scripts/demo.sh. Without a clip a procedural speaker is made; without speech, the speaker says other sentences
(or the clip's own sound is used). Started again with the same arguments, it continues where it stopped.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from scipy.io import wavfile

from instag.api import adapt_subject, evaluate_avatar, resolve_device, synthesize_video
from instag.cli import run_command
from instag.data.layout import SAMPLE_RATE
from instag.files import atomic_path

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "output" / "demo"
SPEAKER_SECONDS = 10.0
SPEAKER_SIZE = 512  # px
CPU_SIZE, GPU_SIZE = 256, 512  # px, pictures of the subject folder
IDENTITY, STYLE, SENTENCES, NEW_SENTENCES = 5, 5, 0, 1  # seeds of the procedural speaker
T = TypeVar("T")


def main() -> None:
    """Parse two optional paths and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path, nargs="?", help="portrait video with sound; default: a procedural speaker")
    parser.add_argument("speech", type=Path, nargs="?", help="what it shall say; default: new sentences")
    flags = parser.parse_args()
    run_command(lambda: demo(flags.clip, flags.speech))


def demo(clip: Path | None, speech: Path | None) -> None:
    """Make everything and say where it is."""
    from instag.data_utils.process import process

    start = time.perf_counter()
    gpu = resolve_device("auto") != "cpu"
    name = clip.stem if clip else "speaker"
    steps = OUTPUT / "steps" / name
    if clip is None:
        clip, new_speech = timed("speaker", lambda: make_speaker(steps))
        speech = speech or new_speech
    subject = timed("process", lambda: process(clip, steps / "subject" / name, size=GPU_SIZE if gpu else CPU_SIZE))
    run = steps / "run"
    avatar = timed("adapt", lambda: adapt_subject(subject.pack, run, "adapt_fast" if gpu else "demo"))
    talking = OUTPUT / "talking.mp4"
    timed("synthesize", lambda: synthesize_video(avatar, speech or subject.audio, talking, blink="natural"))
    metrics = timed("evaluate", lambda: evaluate_avatar(avatar, subject.pack, steps / "evaluation"))
    for file in ("metrics.json", "report.html"):
        shutil.copyfile(metrics.parent / file, OUTPUT / file)
    print(f"\ndone in {time.perf_counter() - start:.0f} s")
    print(f"  {talking}   the talking head")
    print(f"  {OUTPUT / 'metrics.json'}, {OUTPUT / 'report.html'}   the held-out part of the clip, self-driven")
    print(f"  {subject.contact_sheet}   what preprocessing saw: look at it when something is wrong")


def timed(step: str, work: Callable[[], T]) -> T:
    """Run a step and say how long it took."""
    print(f"== {step}", flush=True)
    start = time.perf_counter()
    result = work()
    print(f"== {step}: {time.perf_counter() - start:.0f} s", flush=True)
    return result


def make_speaker(folder: Path) -> tuple[Path, Path]:
    """The clip of a procedural speaker, and a sound file with sentences that are not in it."""
    from instag.synthetic import Speaker, make_clip

    clip, speech = folder / "speaker.mp4", folder / "new_sentences.wav"
    if not clip.is_file():
        make_clip(clip, IDENTITY, STYLE, SENTENCES, SPEAKER_SECONDS, SPEAKER_SIZE)
    if not speech.is_file():
        performance = Speaker(IDENTITY, STYLE).perform(NEW_SENTENCES, SPEAKER_SECONDS)
        with atomic_path(speech) as part:
            wavfile.write(part, SAMPLE_RATE, performance.audio)
    return clip, speech


if __name__ == "__main__":
    main()
