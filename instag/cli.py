"""`instag <verb>`: parse, build a configuration, call one function."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from instag.errors import InstagError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # as shells count a SIGINT
Assignments = Annotated[
    tuple[str, ...], tyro.conf.arg(name="set", metavar="SECTION.NAME=VALUE"), tyro.conf.UseAppendAction
]


@dataclass
class Process:
    """Video -> subject folder: pose, masks, background, torso, action units, audio features, and one packed file."""

    clip: tyro.conf.Positional[Path]
    """Portrait video with sound, a few seconds or more."""
    folder: tyro.conf.Positional[Path]
    """Where the subject goes, e.g. data/anna. Started again, it continues where it stopped."""
    size: int = 512
    """Side of the square pictures, px."""
    seconds: float | None = None
    """Use only the first seconds of the clip."""
    audio_extractor: str = "phone-mel"
    """Audio features to make."""
    overwrite: bool = False
    """Make every step anew."""

    def run(self) -> None:
        """Process a clip."""
        from instag.data_utils.process import process

        subject = process(
            self.clip,
            self.folder,
            size=self.size,
            limit_seconds=self.seconds,
            extractor=self.audio_extractor,
            force=self.overwrite,
        )
        print(f"{subject.pack}\n{subject.contact_sheet}  <- look at this page before you train")


@dataclass
class Features:
    """Audio file or subject folder -> audio features."""

    source: tyro.conf.Positional[Path]
    """A sound or video file."""
    output: tyro.conf.Positional[Path]
    """The .npy to write."""
    audio_extractor: str = "phone-mel"
    """Kind of features."""
    mode: Literal["file", "running"] = "file"
    """Normalisation over the whole file, or running (streaming)."""

    def run(self) -> None:
        """Extract features."""
        from instag.audio.features import extract, save_features

        features, norm = extract(self.source, self.audio_extractor, mode=self.mode)
        save_features(self.output, features, norm)
        print(f"{self.output}: {features.shape[0]} frames, {self.audio_extractor}")


@dataclass
class Adapt:
    """Learn a person's talking head from a subject folder or .instag file; writes OUTPUT/avatar.safetensors."""

    subject: tyro.conf.Positional[Path]
    """data/<ID> or <ID>.instag."""
    output: tyro.conf.Positional[Path]
    """Folder of the run. Started again, an interrupted run continues."""
    preset: str = "adapt"
    """Name of a preset in configs/, or a YAML file."""
    n_views: int | None = None
    """Training frames from the start: 125, 250, 500 are 5, 10, 20 s; -1 takes all."""
    all_for_train: bool = False
    """Train on the test part too."""
    audio_extractor: str | None = None
    """Audio features that drive the head."""
    long: bool = False
    """Settings for minutes of video instead of seconds."""
    size: int | None = None
    """Train on pictures of this side, px."""
    device: str = "auto"
    """cpu, cuda, or a GPU's number."""
    universal: str = "shipped"
    """Pre-trained motion fields: shipped, none, or a file."""
    seed: int | None = None
    """Of points, sampling and noise."""
    overwrite: bool = False
    """Start over where the folder holds an earlier run."""
    assignments: Assignments = ()
    """Any setting of instag/config.py, e.g. --set training.face.iterations=2000."""

    def run(self) -> None:
        """Adapt."""
        from instag.api import adapt_subject

        flags = {
            "data.n_views": self.n_views,
            "data.all_for_train": self.all_for_train or None,
            "data.size": self.size,
            "model.extractor": self.audio_extractor,
            "training.long": self.long or None,
            "training.seed": self.seed,
        }
        assignments = [f"{key}={value}" for key, value in flags.items() if value is not None]
        path = adapt_subject(
            self.subject,
            self.output,
            self.preset,
            (*assignments, *self.assignments),
            self.device,
            self.overwrite,
            self.universal,
        )
        print(path)


@dataclass
class Pretrain:
    """Learn universal motion fields from several people; writes OUTPUT/universal.safetensors."""

    corpus: tyro.conf.Positional[Path]
    """Folder that holds one subject folder or .instag file per video."""
    output: tyro.conf.Positional[Path]
    """Folder of the run. Started again, an interrupted run continues."""
    ids: tuple[str, ...] = ()
    """Subjects to use; default: all."""
    preset: str = "pretrain"
    """Name of a preset in configs/, or a YAML file."""
    size: int | None = None
    """Train on pictures of this side, px."""
    device: str = "auto"
    """cpu, cuda, or a GPU's number."""
    overwrite: bool = False
    """Start over where the folder holds an earlier run."""
    assignments: Assignments = ()
    """Any setting of instag/config.py, e.g. --set pretrain.contrast=0."""

    def run(self) -> None:
        """Pre-train."""
        from instag.api import pretrain_fields

        assignments = [f"data.size={self.size}"] if self.size is not None else []
        print(
            pretrain_fields(
                self.corpus,
                self.output,
                self.preset,
                (*assignments, *self.assignments),
                self.device,
                self.ids,
                self.overwrite,
            )
        )


@dataclass
class Synthesize:
    """Avatar + any audio -> mp4 with sound."""

    avatar: tyro.conf.Positional[Path]
    """avatar.safetensors, or the folder of its run."""
    audio: tyro.conf.Positional[Path]
    """Sound or video file, or ready features (.npy)."""
    output: tyro.conf.Positional[Path]
    """The .mp4 to write."""
    poses: Literal["train", "test", "all"] = "all"
    """Part of the clip whose head poses are repeated, forward and back."""
    blink: Literal["clip", "natural"] = "clip"
    """Blinks and brows of the clip, or a natural generator."""
    dilate: bool = False
    """Close gaps round the mouth at the price of a dark rim."""
    frames: bool = False
    """Write a folder of lossless PNGs beside the video."""
    device: str = "auto"
    """cpu, cuda, or a GPU's number."""

    def run(self) -> None:
        """Synthesize."""
        from instag.api import synthesize_video

        print(
            synthesize_video(
                self.avatar, self.audio, self.output, self.poses, self.blink, self.dilate, self.frames, self.device
            )
        )


@dataclass
class Evaluate:
    """Render the test part self-driven and measure it: metrics.json, report.html, side_by_side.mp4."""

    avatar: tyro.conf.Positional[Path]
    """avatar.safetensors, or the folder of its run."""
    subject: tyro.conf.Positional[Path]
    """data/<ID> or <ID>.instag: the truth."""
    output: tyro.conf.Positional[Path]
    """Folder for the report."""
    part: Literal["test", "train"] = "test"
    """Which frames."""
    dilate: bool = False
    """As in synthesis."""
    device: str = "auto"
    """cpu, cuda, or a GPU's number."""

    def run(self) -> None:
        """Evaluate."""
        from instag.api import evaluate_avatar

        print(evaluate_avatar(self.avatar, self.subject, self.output, self.part, self.dilate, self.device))


@dataclass
class Doctor:
    """What this machine can do: GPU, back ends, optional parts present or how to get them."""

    def run(self) -> None:
        """Print the report."""
        from instag.doctor import report

        print(report())


@dataclass
class Speaker:
    """Make the video of a procedural speaker (no person): for demos and tests."""

    output: tyro.conf.Positional[Path]
    """The .mp4 to write; exact ground truth goes beside it."""
    identity: int = 0
    """Seed of the face."""
    style: int = 0
    """Seed of the way of speaking."""
    sentence: int = 0
    """Seed of what is said."""
    seconds: float = 10.0
    """Length."""
    size: int = 512
    """Side of the pictures, px."""

    def run(self) -> None:
        """Render the clip."""
        from instag.synthetic import make_clip

        print(make_clip(self.output, self.identity, self.style, self.sentence, self.seconds, self.size))


DESCRIPTION = """A talking 3D head from a few seconds of video.

instag process clip.mp4 data/anna; instag adapt data/anna output/anna;
instag synthesize output/anna speech.wav anna.mp4"""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `instag` command."""
    program = tyro.cli(
        Process | Features | Pretrain | Adapt | Synthesize | Evaluate | Doctor | Speaker,
        prog="instag",
        args=arguments,
        description=DESCRIPTION,
    )
    run_command(program.run)


def run_command(command: Callable[[], None]) -> None:
    """Run; what the user can mend becomes one line and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        command()
    except InstagError as error:
        print(f"instag: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print("instag: interrupted; the same command continues", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
