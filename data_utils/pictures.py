"""The steps that make pictures, one chunk of frames at a time. They run in worker processes.

What exists already is kept: the pipeline removes it first when the settings have changed.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from instag.data.layout import LABEL_COLORS, Label, SubjectFolder
from instag.data_utils.clip import ClipView
from instag.data_utils.face_points import to_68_points
from instag.data_utils.files import read_image, write_image
from instag.data_utils.segmentation import Parser
from instag.data_utils.torso import Neck, compose, torso_layer
from instag.files import atomic_path

# One bit or two of each channel tell the six colours apart: a table from these bits back to the label.
_CHANNEL_BITS = (1, 6, 8)
_LABEL_OF_BITS = np.full(16, Label.BACKGROUND, np.uint8)
_LABEL_OF_BITS[(LABEL_COLORS & np.array(_CHANNEL_BITS, np.uint8)).sum(1)] = np.arange(len(LABEL_COLORS))


@lru_cache(maxsize=1)
def _clip(root: Path, version: str) -> ClipView:
    """The clip that this process works on. `version` names the settings of the steps before, which may be run anew."""
    return ClipView.open(SubjectFolder(root))


def write_labels(start: int, stop: int, root: Path, version: str, parser: Parser) -> None:
    """parsing/<i>.png of frames start .. stop-1."""
    folder = SubjectFolder(root)
    for i in range(start, stop):
        if folder.parsing(i).is_file():
            continue
        clip = _clip(root, version)
        pose = clip.rotation[i], clip.translation_cm[i]
        labels = parser.label(clip.frame(i), clip.person(i), clip.landmarks[i], *pose)
        write_image(folder.parsing(i), np.take(LABEL_COLORS, labels, axis=0))


def read_labels(folder: SubjectFolder, i: int) -> np.ndarray:
    """Label map uint8 [H, W] of parsing/<i>.png as `write_labels` wrote it."""
    red, green, blue = (
        channel & bits for channel, bits in zip(cv2.split(read_image(folder.parsing(i))), _CHANNEL_BITS, strict=True)
    )
    return _LABEL_OF_BITS[red | green | blue]


def write_torso(start: int, stop: int, root: Path, version: str, neck: Neck | None) -> np.ndarray:
    """torso_imgs/<i>.png of a chunk; returns torso over plate, uint8 [n, H, W, 3]. `neck`: the clip's."""
    folder, clip = SubjectFolder(root), _clip(root, version)
    plates = np.empty((stop - start, clip.size, clip.size, 3), np.uint8)
    for i in range(start, stop):
        if folder.torso(i).is_file():
            layer = read_image(folder.torso(i))
        else:
            labels = read_labels(folder, i)
            layer = torso_layer(clip.frame(i), labels, clip.plate.image, neck, clip.plane(i))
            write_image(folder.torso(i), layer)
        plates[i - start] = compose(layer, clip.plate.image)
    return plates


def write_images(start: int, stop: int, root: Path, version: str) -> None:
    """ori_imgs/<i>.jpg and .lms, gt_imgs/<i>.jpg (the person over the clean plate) of a chunk."""
    folder = SubjectFolder(root)
    for i in range(start, stop):
        if folder.ground_truth(i).is_file():
            continue  # the last of the three
        clip = _clip(root, version)
        frame = clip.frame(i)
        write_image(folder.image(i), frame)
        points = to_68_points(clip.landmarks[i : i + 1])[0]
        with atomic_path(folder.landmarks(i)) as partial:
            np.savetxt(partial, points, fmt="%.3f")
        person = cv2.compare(read_labels(folder, i), int(Label.BACKGROUND), cv2.CMP_NE)
        write_image(folder.ground_truth(i), cv2.copyTo(frame, person, clip.plate.image.copy()))
