"""Files that others publish and some options of the program want: what for, on which terms, from where.

`bash scripts/prepare.sh --list` prints the table, `--only NAME` fetches one file, no option those that are marked so.
Nothing here is needed for training or synthesis. A fetch that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # run as a script: the checkout is to be searched for modules, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from instag.errors import DataError, InstagError
from instag.metrics.lpips import weights_folder

TIMEOUT = 30  # s without an answer
BLOCK = 1 << 20  # bytes
PARTIAL = ".part"
NOT_SATISFIABLE = 416  # HTTP: nothing is left to send


@dataclass(frozen=True)
class Item:
    """One file: `sha256` is the hash or its beginning, None where none is known; without a `url` it is got by hand."""

    name: str
    file: str  # below the weights folder
    purpose: str
    licence: str
    use: str  # what the terms allow, as far as they say
    url: str | None
    sha256: str | None = None
    by_default: bool = False
    where: str = ""  # of a file to be got by hand, or what is to be done with it


ITEMS = (
    Item(
        "lpips-trunk",
        "alexnet-owt-7be5be79.pth",
        "LPIPS: AlexNet",
        "BSD-3-Clause (torchvision)",
        "any; trained on ImageNet",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "7be5be79",  # torchvision puts the beginning of the hash in the name
        by_default=True,
    ),
    Item(
        "lpips-heads",
        "lpips_alex.pth",
        "LPIPS: linear heads v0.1",
        "BSD-2-Clause (richzhang/PerceptualSimilarity)",
        "any",
        "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/alex.pth",
        by_default=True,
    ),
    Item(
        "syncnet",
        "syncnet_v2.model",
        "Sync-C and Sync-D of `instag evaluate`",
        "code MIT (joonson/syncnet_python); none stated for the weights",
        "ask the authors before commercial use",
        "https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
        "961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",  # of a public copy of 54,573,114 bytes
        by_default=True,
    ),
    Item(
        "celebamask-parser",
        "celebamask_resnet18.onnx",
        "`instag process --parser`: 19 classes",
        "code MIT (yakhyo/face-parsing); trained on CelebAMask-HQ",
        "CelebAMask-HQ: non-commercial research",
        "https://github.com/yakhyo/face-parsing/releases/download/weights/resnet18.onnx",
    ),
    Item(
        "sapiens-depth",
        "sapiens_depth_0.3b.pt2",
        "`instag process --geometry`: depth",
        "Sapiens License (Meta)",
        "read it: non-commercial in its first version",
        "https://huggingface.co/facebook/sapiens-depth-0.3b-torchscript/resolve/main/"
        "sapiens_0.3b_render_people_epoch_100_torchscript.pt2",
    ),
    Item(
        "sapiens-normal",
        "sapiens_normal_0.3b.pt2",
        "`instag process --geometry`: normals",
        "Sapiens License (Meta)",
        "read it: non-commercial in its first version",
        "https://huggingface.co/facebook/sapiens-normal-0.3b-torchscript/resolve/main/"
        "sapiens_0.3b_normal_render_people_epoch_66_torchscript.pt2",
    ),
    Item(
        "ave",
        "audio_visual_encoder.pth",
        "features of the extractor `ave`, made by SyncTalk's own script",
        "none stated for the weights (ZiqiaoPeng/SyncTalk)",
        "ask the authors before commercial use",
        "https://github.com/ZiqiaoPeng/SyncTalk/raw/main/nerf_triplane/checkpoints/audio_visual_encoder.pth",
    ),
    Item(
        "easyportrait-parser",
        "easyportrait.onnx",
        "`instag process --parser`: teeth and face, 9 classes",
        "a variant of CC BY-SA 4.0 (hukenovs/easyportrait)",
        "read it",
        None,
        where="links in the README of github.com/hukenovs/easyportrait; export to ONNX",
    ),
    Item(
        "openface",
        "au.csv",
        "action units by OpenFace in place of ours",
        "academic (github.com/TadasBaltrusaitis/OpenFace)",
        "non-commercial; commercial by agreement",
        None,
        where="install OpenFace, run FeatureExtraction on the clip, put its CSV into data/<ID>/au.csv",
    ),
    Item(
        "bfm",
        "01_MorphableModel.mat",
        "not used here; other programs' head tracking",
        "Basel Face Model 2009",
        "non-commercial",
        None,
        where="needs registration: faces.dmi.unibas.ch/bfm",
    ),
)


def get_item(name: str) -> Item:
    """The item of that name; DataError, naming the known ones, for any other."""
    by_name = {item.name: item for item in ITEMS}
    if name not in by_name:
        raise DataError(f"unknown file '{name}': choose one of {', '.join(by_name)}")
    return by_name[name]


def table(folder: Path) -> str:
    """What `--list` prints: a block of lines an item."""
    lines = [f"folder: {folder} (INSTAG_WEIGHTS or --folder names another)"]
    for item in ITEMS:
        state = (
            "here" if (folder / item.file).is_file() else "fetched without --only" if item.by_default else "not here"
        )
        lines += [
            "",
            f"{item.name}  [{state}]",
            f"  for      {item.purpose}",
            f"  licence  {item.licence}",
            f"  use      {item.use}",
            f"  file     {item.file}",
            f"  from     {item.url + '  (not checked by us)' if item.url else 'by hand: ' + item.where}",
            f"  sha256   {item.sha256 or 'not known'}",
        ]
    return "\n".join(lines)


def fetch(item: Item, folder: Path) -> Path:
    """The item's file below the folder, fetched if it is not there; goes on with a part that is.

    Raises DataError: to be got by hand, no connection, another content than expected.
    """
    target = folder / item.file
    if target.is_file():
        return target
    if item.url is None:
        raise DataError(f"{item.name}: cannot be fetched; {item.where}")
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + PARTIAL)
    try:
        _download(item.url, part)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise DataError(f"{item.url}: {error}; run it again, or put the file at {target} by hand") from None
    found = _sha256(part)
    if item.sha256 and not found.startswith(item.sha256):
        part.unlink()
        raise DataError(f"{item.url}: sha256 {found}, expected {item.sha256}; removed; look at the page it comes from")
    part.replace(target)
    return target


def _download(url: str, part: Path) -> None:
    """Append to `part` what is missing of it; from the start where the server cannot continue."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if have and error.code == NOT_SATISFIABLE:
            return
        raise
    with answer:
        continued = answer.status == 206
        with part.open("ab" if continued else "wb") as file:
            shutil.copyfileobj(answer, file, BLOCK)
        length = answer.headers.get("Content-Length")
    expected = None if length is None else int(length) + (have if continued else 0)
    if expected is not None and part.stat().st_size != expected:
        raise OSError(f"the connection broke off at {part.stat().st_size} of {expected} bytes")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """The script's entry; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the table: what for, licence, use, from where")
    parser.add_argument("--only", action="append", metavar="NAME", help="fetch this file (may be repeated)")
    parser.add_argument(
        "--folder", type=Path, help="where files go (default: INSTAG_WEIGHTS or ~/.cache/instag/weights)"
    )
    options = parser.parse_args(arguments)
    folder = options.folder or weights_folder()
    if options.list:
        print(table(folder))
        return 0
    failed = 0
    names = options.only or [item.name for item in ITEMS if item.by_default]
    for name in names:
        try:
            item = get_item(name)
            print(f"{item.name}: {item.licence}; {item.use}")
            path = fetch(item, folder)
            print(f"  {path}  sha256 {_sha256(path)}")
        except InstagError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
