"""The field's calling style: python scripts/synthesize.py -S data/<ID> -M output/<name> --audio speech.wav."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from instag.api import synthesize_video
from instag.cli import run_command


def main() -> None:
    """Parse the reference's spellings and call `synthesize_video`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-S", "--source_path", type=Path, help="data/<ID>; its id names the default output")
    parser.add_argument("-M", "--model_path", type=Path, required=True, help="output/<name>, a run of `instag adapt`")
    parser.add_argument("--audio", type=Path, help="sound file or features (.npy); default: the subject's own sound")
    parser.add_argument("--output", type=Path, help="default: <model_path>/<audio name>.mp4")
    parser.add_argument("--use_train", action="store_true", help="poses of the training part")
    parser.add_argument("--eval", action="store_true", help="poses of the test part")
    parser.add_argument("--dilate", action="store_true", help="close gaps round the mouth")
    parser.add_argument("--device", default="auto", help="cpu, cuda or a GPU's number")
    flags = parser.parse_args()
    audio = flags.audio or (flags.source_path and flags.source_path / "aud.wav")
    if audio is None:
        parser.error("give --audio, or -S for the subject's own sound")
    output = flags.output or flags.model_path / f"{audio.stem}.mp4"
    poses = "train" if flags.use_train else "test" if flags.eval else "all"
    run_command(
        lambda: print(
            synthesize_video(flags.model_path, audio, output, poses, "clip", flags.dilate, False, flags.device)
        )
    )


if __name__ == "__main__":
    sys.exit(main())
