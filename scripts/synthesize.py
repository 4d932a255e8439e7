"""The field's calling style: python scripts/synthesize.py -S data/<ID> -M output/<name> --audio speech.wav."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from instag.api import load_avatar
from instag.cli import run_command
from instag.synthesize import Poses, synthesize

SET_AT_TRAINING = "accepted: the avatar knows it from its training"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the reference's spellings and make the video."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-S", "--source_path", type=Path, help="data/<ID>: its sound is used where --audio is absent")
    parser.add_argument("-M", "--model_path", type=Path, required=True, help="output/<name>, a run of `instag adapt`")
    parser.add_argument("--audio", type=Path, help="sound or video file, or features (.npy)")
    parser.add_argument("--output", type=Path, help="default: <model_path>/<audio name>.mp4")
    parser.add_argument("--audio_extractor", help="refused unless the avatar listens to these features")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--use_train", action="store_true", help="poses of the training part; default: the whole clip's")
    part.add_argument("--eval", action="store_true", help="poses of the test part")
    parser.add_argument("--dilate", action="store_true", help="close gaps round the mouth")
    parser.add_argument("--device", default="auto", help="cpu, cuda or a GPU's number")
    parser.add_argument("--N_views", type=int, help=SET_AT_TRAINING)
    parser.add_argument("--all_for_train", action="store_true", help=SET_AT_TRAINING)
    parser.add_argument("--long", action="store_true", help=SET_AT_TRAINING)
    flags = parser.parse_args(arguments)
    audio = flags.audio or (flags.source_path and flags.source_path / "aud.wav")
    if audio is None:
        parser.error("give --audio, or -S for the subject's own sound")
    output = flags.output or flags.model_path / f"{audio.stem}.mp4"
    poses: Poses = "train" if flags.use_train else "test" if flags.eval else "all"

    def make() -> None:
        avatar = load_avatar(flags.model_path, flags.device, flags.audio_extractor)
        print(synthesize(avatar, audio, output, poses=poses, dilate=flags.dilate))

    run_command(make)


if __name__ == "__main__":
    main()
