"""`instag doctor`: whether a clip can be used; what this machine can do, and how to get what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shlex
import sys
from pathlib import Path

import torch
from gaussian_rasterization import available_backends

from instag.data.audio import EXTRACTORS
from instag.metrics.lpips import find_weights, weights_folder
from instag.universal import shipped
from instag.version import __version__

# package to import -> (what it is for, how to get it)
OPTIONAL = {
    "mediapipe": ("landmarks and person mask (preprocessing, landmark metrics)", "pip install -e '.[preprocess]'"),
    "cv2": ("reading pictures", "comes with mediapipe; alone: pip install opencv-python-headless"),
    "av": ("reading and writing video and sound", "pip install av"),
    "pocketsphinx": ("phone-mel audio features", "pip install 'pocketsphinx>=5.0.4,<6'"),
    "numba": ("fast CPU rendering and training", "pip install numba"),
    "transformers": ("wav2vec 2.0 and HuBERT features", "pip install -e '.[hf]'"),
    "cuda.core": ("CUDA kernels, compiled at run time", "pip install -e '.[gpu]'"),
}
DISTRIBUTIONS = {"cv2": "opencv-contrib-python", "cuda.core": "cuda-core"}


def report() -> str:
    """A page of plain words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0
    lines = [
        f"instag {__version__}, Python {platform.python_version()} on {sys.platform}, torch {torch.__version__}",
        f"CPU: {os.cpu_count()} cores, {memory:.0f} GiB memory",
        *_gpus(),
        "",
        "rasterizer back ends (the first that serves the tensors is taken):",
        *(f"  {name:<13} {state}" for name, state in available_backends().items() if name != "reference"),
        "",
        "packages:",
        *(_package(name, use, remedy) for name, (use, remedy) in OPTIONAL.items()),
        "",
        "weights:",
        f"  {'universal':<13} {_universal()}",
        f"  {'LPIPS':<13} {_lpips()}",
        "",
        _verdict(),
    ]
    return "\n".join(lines)


MARKS = ("  ok  ", "  !   ", "  NO  ")  # by how bad a finding is


def clip_report(clip: Path) -> tuple[str, bool]:
    """A page of plain words about a clip, and whether it can be used.

    Raises:
        InstagError: preprocessing's packages are not installed.
    """
    from instag.data_utils.process import preprocessing_packages

    with preprocessing_packages():
        from instag.data_utils.clip_check import Level, check_clip
    check = check_clip(clip)
    lines = [f"{clip}: {check.verdict}", ""]
    lines += [f"{MARKS[finding.level]}{finding}" for finding in check.findings]
    usable = all(finding.level < Level.FATAL for finding in check.findings)
    if usable:
        lines += ["", f"next: instag process {shlex.quote(str(clip))} data/{_identifier(clip)}"]
    return "\n".join(lines), usable


def _identifier(clip: Path) -> str:
    """A folder's name made from that of the clip."""
    return "".join(c if c.isalnum() else "_" for c in clip.stem).strip("_") or "speaker"


def _gpus() -> list[str]:
    if not torch.cuda.is_available():
        return ["GPU: none that torch can use; everything runs on the CPU"]
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        f"GPU {i}: {p.name}, {p.total_memory / 2**30:.0f} GiB, sm_{p.major}{p.minor}" for i, p in enumerate(properties)
    ]


def _present(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the parent of a dotted name
        return False


def _package(name: str, use: str, remedy: str) -> str:
    if not _present(name):
        return f"  {name:<13} absent: {use}; {remedy}"
    try:
        version = importlib.metadata.version(DISTRIBUTIONS.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        version = "installed"
    return f"  {name:<13} {version}"


def _lpips() -> str:
    files = find_weights()
    if files:
        return f"found below {files.trunk.parent}"
    return f"absent: the perceptual term and metric are off; put the files into {weights_folder()}"


def _universal() -> str:
    names = [name for name in EXTRACTORS if shipped(name) is not None]
    if names:
        return f"motion fields ship for: {', '.join(names)}"
    return "absent: each adaptation learns its motion alone; make them with instag pretrain"


def _verdict() -> str:
    missing = [name for name in ("mediapipe", "cv2", "av", "pocketsphinx") if not _present(name)]
    if missing:
        return f"Training and synthesis from packed subjects work; processing clips needs: {', '.join(missing)}."
    return "Everything that the demo needs is here: bash scripts/demo.sh"
