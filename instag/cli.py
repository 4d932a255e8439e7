"""`instag <verb>`: parse, build a configuration, call one function."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Protocol, Union

import tyro

from instag.cli_help import DESCRIPTION, LESSONS
from instag.cli_spellings import translated
from instag.errors import InstagError
from instag.gpu_context import begin_context
from instag.version import __version__

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # as shells count a SIGINT


class Verb(Protocol):
    """One command: its fields are its arguments."""

    def run(self) -> None:
        """Do it."""


Assignments = Annotated[
    tuple[str, ...], tyro.conf.arg(name="set", metavar="SECTION.NAME=VALUE"), tyro.conf.UseAppendAction
]
# tyro takes `_` for `-`, so that --N_views, --audio_extractor, --all_for_train are understood as the field spells them.
AS_BEFORE, FROM_PRESET = "(default: as before in this folder", "(default: the preset's)"
Views = Annotated[int | None, tyro.conf.arg(aliases=("--N-views",), help_behavior_hint=FROM_PRESET)]
PresetNumber = Annotated[int | None, tyro.conf.arg(help_behavior_hint=FROM_PRESET)]
PresetName = Annotated[str | None, tyro.conf.arg(help_behavior_hint=FROM_PRESET)]


@dataclass
class Process:
    """Video -> subject folder and one packed file."""

    clip: tyro.conf.Positional[Path]
    """Portrait video with sound, a few seconds or more."""
    folder: tyro.conf.Positional[Path]
    """Where the subject goes, e.g. data/anna. Started again, it continues where it stopped."""
    size: Annotated[int | None, tyro.conf.arg(help_behavior_hint=f"{AS_BEFORE}, else 512)")] = None
    """Side of the square pictures, px."""
    seconds: Annotated[float | None, tyro.conf.arg(help_behavior_hint="(default: all)")] = None
    """Use only the first seconds of the clip."""
    shot: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: the longest)")] = None
    """Take to use of a clip with cuts, from 1 (`instag doctor` lists them); 0: all of it."""
    best: Annotated[float | None, tyro.conf.arg(help_behavior_hint="(default: all)")] = None
    """Use only the most informative part, of so many seconds."""
    lag: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: 0)")] = None
    """Frames by which the lips are late: the sound is put off by them."""
    fix_lag: bool = False
    """Measure how late the lips are, and put it right."""
    poses: Annotated[str | None, tyro.conf.arg(help_behavior_hint=f"{AS_BEFORE}, else photometric)")] = None
    """How the head's pose is found: photometric (landmarks, then refined on the pictures) or landmarks (faster)."""
    audio_extractor: Annotated[str | None, tyro.conf.arg(help_behavior_hint=f"{AS_BEFORE}, else phone-mel)")] = None
    """Audio features to make."""
    parser: Annotated[Path | None, tyro.conf.arg(help_behavior_hint=f"{AS_BEFORE}, else our own)")] = None
    """Face parsing network of your own, .onnx or TorchScript."""
    geometry: Annotated[tuple[Path, Path] | None, tyro.conf.arg(help_behavior_hint=f"{AS_BEFORE}, else none)")] = None
    """Depth and normal network of your own, TorchScript files of Sapiens' convention."""
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
            shot=self.shot,
            best=self.best,
            lag=self.lag,
            fix_lag=self.fix_lag,
            poses=self.poses,
            parser=self.parser,
            geometry=self.geometry,
            extractor=self.audio_extractor,
            force=self.overwrite,
        )
        print(f"{subject.pack}\n{subject.contact_sheet}  <- look at this page before you train")


@dataclass
class Features:
    """Sound -> audio features, into a file or into a subject folder."""

    source: tyro.conf.Positional[Path]
    """A sound or video file, or data/<ID>."""
    output: tyro.conf.Positional[Path | None] = None
    """The .npy to write; not for a subject folder."""
    audio_extractor: str = "phone-mel"
    """Kind of features: phone-mel, mel, hubert, esperanto; deepspeech and ave are read ready-made."""
    mode: Literal["file", "running"] = "file"
    """Normalisation over the whole file, or running (streaming)."""

    def run(self) -> None:
        """Extract features."""
        from instag.api import make_features

        path, frames = make_features(self.source, self.output, self.audio_extractor, self.mode)
        print(f"{path}: {frames} frames, {self.audio_extractor}")


@dataclass
class Pack:
    """Subject folder -> one .instag file, as `instag process` writes it already."""

    folder: tyro.conf.Positional[Path]
    """data/<ID>."""
    output: tyro.conf.Positional[Path | None] = None
    """The file; default data/<ID>/<ID>.instag."""

    def run(self) -> None:
        """Pack."""
        from instag.data.layout import SubjectFolder
        from instag.data.pack import write_pack

        print(write_pack(SubjectFolder(self.folder), self.output))


@dataclass
class Adapt:
    """Learn a person's talking head; writes OUTPUT/avatar.safetensors."""

    subject: tyro.conf.Positional[Path]
    """data/<ID> or <ID>.instag."""
    output: tyro.conf.Positional[Path]
    """Folder of the run. Started again, an interrupted run continues."""
    preset: str = "adapt"
    """Name of a preset in configs/, or a YAML file."""
    n_views: Views = None
    """Training frames from the start: 125, 250, 500 are 5, 10, 20 s; -1 takes all of the training part."""
    all_for_train: bool = False
    """Train on the test part too."""
    audio_extractor: PresetName = None
    """Audio features that drive the head."""
    long: bool = False
    """Settings for minutes of video instead of seconds (METHOD.md section 6: instag.config.LONG_MODE)."""
    size: PresetNumber = None
    """Train on pictures of this side, px."""
    device: str = "auto"
    """cpu, cuda, or a GPU's number."""
    universal: str = "shipped"
    """Pre-trained motion fields: shipped, none, or a file."""
    seed: PresetNumber = None
    """Of points, sampling and noise."""
    overwrite: bool = False
    """Start over where the folder holds an earlier run."""
    assignments: Assignments = ()
    """Any setting of instag/config.py, with its section; the value is YAML: --set training.face.iterations=2000."""

    def run(self) -> None:
        """Adapt."""
        from instag.api import adapt_subject
        from instag.config import LONG_MODE

        flags = {
            "data.n_views": self.n_views,
            "data.all_for_train": self.all_for_train or None,
            "data.size": self.size,
            "model.extractor": self.audio_extractor,
            "training.seed": self.seed,
        }
        assignments = [f"{key}={value}" for key, value in flags.items() if value is not None]
        path = adapt_subject(
            self.subject,
            self.output,
            self.preset,
            (*(LONG_MODE if self.long else ()), *assignments, *self.assignments),
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
    size: PresetNumber = None
    """Train on pictures of this side, px."""
    device: str = "auto"
    """cpu, cuda, or a GPU's number."""
    overwrite: bool = False
    """Start over where the folder holds an earlier run."""
    assignments: Assignments = ()
    """Any setting of instag/config.py, with its section; the value is YAML: --set pretrain.contrast=0."""

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
    """The .mp4 to write, or a folder for lossless PNGs."""
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
    audio_extractor: Annotated[str | None, tyro.conf.arg(help_behavior_hint="(default: the avatar's)")] = None
    """Refuse the avatar unless it listens to these features."""

    def run(self) -> None:
        """Synthesize."""
        from instag.api import synthesize_video

        print(
            synthesize_video(
                self.avatar,
                self.audio,
                self.output,
                self.poses,
                self.blink,
                self.dilate,
                self.frames,
                self.device,
                self.audio_extractor,
            )
        )


@dataclass
class Evaluate:
    """Render the test part self-driven and measure it."""

    avatar: tyro.conf.Positional[Path]
    """avatar.safetensors, or the folder of its run."""
    subject: tyro.conf.Positional[Path]
    """data/<ID> or <ID>.instag: the truth."""
    output: tyro.conf.Positional[Path]
    """Folder for the report."""
    part: Literal["test", "train", "all"] = "test"
    """Which frames: the avatar's own parts of its clip, or all of SUBJECT (another take of the person)."""
    dilate: bool = False
    """As in synthesis."""
    device: str = "auto"
    """cpu, cuda, or a GPU's number."""
    audio_extractor: Annotated[str | None, tyro.conf.arg(help_behavior_hint="(default: the avatar's)")] = None
    """Refuse the avatar unless it listens to these features."""
    syncnet: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="(default: none, no Sync-C)")] = None
    """SyncNet's weights, for Sync-C and Sync-D: syncnet_v2.model, or the same as .safetensors."""

    def run(self) -> None:
        """Evaluate."""
        from instag.api import evaluate_avatar

        print(
            evaluate_avatar(
                self.avatar,
                self.subject,
                self.output,
                self.part,
                self.dilate,
                self.device,
                self.syncnet,
                self.audio_extractor,
            )
        )


@dataclass
class ImportReference:
    """Checkpoints of the authors' program -> universal fields, or an avatar."""

    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="CHECKPOINT... OUTPUT")]
    """chkpnt_ema_face_latest.pth and chkpnt_ema_mouth_latest.pth, or one chkpnt_fuse_latest.pth; last the .safetensors
    to write, for an avatar also the folder of a run."""
    subject: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="(an avatar needs it)")] = None
    """The data/<ID> of that training: its poses, action units and torso."""
    n_views: Annotated[int, tyro.conf.arg(aliases=("--N-views",))] = -1
    """Frames that the avatar was trained on, as in adapt."""
    all_for_train: bool = False
    """It was trained on the test part too."""
    audio_extractor: Annotated[str | None, tyro.conf.arg(help_behavior_hint="(default: the shapes tell)")] = None
    """Refuse the file unless it listens to these features."""
    size: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: the subject's)")] = None
    """Side of the avatar's pictures, px."""
    as_reference: bool = False
    """Draw the avatar exactly as the authors' synthesis does, not as this program draws its own."""

    def run(self) -> None:
        """Import."""
        from instag.api import import_reference

        *checkpoints, output = self.files or (Path(),)
        if not checkpoints:
            raise InstagError("import-reference needs checkpoints and, last, the name of what to write")
        print(
            import_reference(
                checkpoints,
                output,
                self.subject,
                self.n_views,
                self.all_for_train,
                self.audio_extractor,
                self.size,
                self.as_reference,
            )
        )


@dataclass
class Doctor:
    """Is this clip good enough? Without a clip: what this machine can do, and how to get what is missing."""

    clip: tyro.conf.Positional[Path | None] = None
    """Portrait video to look at."""

    def run(self) -> None:
        """Print the report."""
        from instag.doctor import clip_report, report

        if self.clip is None:
            print(report())
            return
        text, usable = clip_report(self.clip)
        print(text)
        if not usable:
            raise SystemExit(EXIT_USER_ERROR)


@dataclass
class Speaker:
    """Make the video of a procedural speaker (no person), for demos and tests."""

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
    glasses: bool = False
    """The speaker wears glasses."""

    def run(self) -> None:
        """Render the clip."""
        from instag.synthetic import make_clip

        seeds = self.identity, self.style, self.sentence
        print(make_clip(self.output, *seeds, self.seconds, self.size, glasses=self.glasses))


VERBS: dict[str, type[Verb]] = {
    verb.__name__.lower(): verb
    for verb in (Process, Features, Pack, Pretrain, Adapt, Synthesize, Evaluate, Doctor, Speaker)
} | {"import-reference": ImportReference}
STYLE = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone, tyro.conf.PositionalMetavarFromFieldName)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `instag` command; `arguments` without the program's name, by default the process's own.

    Raises:
        SystemExit: 2 for what the user can mend, after one line on stderr; 130 when interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(f"instag {__version__}")
        return
    verb = parse(arguments)
    run_command(partial(run_verb, verb))


def parse(arguments: Sequence[str]) -> Verb:
    """The verb with its arguments; prints help or what is wrong with them, and exits, where they are no command."""
    if arguments and arguments[0] in VERBS:
        name, *rest = arguments
        verb = VERBS[name]
        description = f"{verb.__doc__}\n\n{LESSONS[name]}"
        return tyro.cli(
            Annotated[(verb, *STYLE)], prog=f"instag {name}", args=translated(name, rest), description=description
        )
    every = Union[tuple(VERBS.values())]  # noqa: UP007 (built, not written)
    return tyro.cli(Annotated[(every, *STYLE)], prog="instag", args=arguments, description=DESCRIPTION)


def run_verb(verb: Verb) -> None:
    """Run; what a verb that computes needs first is begun before."""
    if hasattr(verb, "device"):
        begin_context(verb.device)
        import_method()
    verb.run()


def import_method() -> None:
    """Import all that computes, torch above all; searches for garbage meanwhile would find none, in 0.2 of 2 s."""
    gc.disable()
    import instag.api  # noqa: F401

    gc.freeze()  # later searches leave out what is there now
    gc.enable()


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


def console() -> None:
    """The `instag` command: `main`, then an end without taking Python, torch and CUDA down piece by piece: 0.7 s."""
    main()
    atexit._run_exitfuncs()  # temporary files go; logs are written
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    console()
