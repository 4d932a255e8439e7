"""The steps that make pictures, one chunk of frames at a time. They run in worker processes.

What exists already is kept: the pipeline removes it first when the settings have changed.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from instag.data.layout import LABEL_COLORS, Label, SubjectFolder
from instag.data.pack import encode_labels
from instag.data_utils.clip import ClipView
from instag.data_utils.face_points import to_68_points
from instag.data_utils.files import PNG_FLAT, read_image, write_image
from instag.data_utils.networks import NetworkParser
from instag.data_utils.segmentation import Parser
from instag.data_utils.torso import compose, torso_layer
from instag.files import atomic_path

_COLORS = np.zeros((256, 1, 3), np.uint8)
_COLORS[: len(LABEL_COLORS), 0] = LABEL_COLORS
_COLOR_SUMS = np.array([[4, 2, 1]]) / 255  # of red, green, blue: six colours, six whole numbers (grey rounds up to 3)
_LABEL_OF_SUM = np.zeros(256, np.uint8)
_LABEL_OF_SUM[np.rint(LABEL_COLORS @ _COLOR_SUMS[0]).astype(int)] = np.arange(len(LABEL_COLORS))


@lru_cache(maxsize=1)
def _clip(root: Path, version: str) -> ClipView:
    """The clip that this process works on. `version` names the settings of the steps before, which may be run anew."""
    return ClipView.open(SubjectFolder(root))


def write_labels(folder: SubjectFolder, i: int, labels: np.ndarray) -> None:
    """Label map uint8 [H, W] to parsing/<i>.png."""
    write_image(folder.parsing(i), cv2.applyColorMap(labels, _COLORS), PNG_FLAT)


def read_labels(folder: SubjectFolder, i: int) -> np.ndarray:
    """Label map uint8 [H, W] of parsing/<i>.png as `write_labels` wrote it."""
    return cv2.LUT(cv2.transform(read_image(folder.parsing(i)), _COLOR_SUMS), _LABEL_OF_SUM)


def write_pictures(
    start: int, stop: int, root: Path, version: str, parser: Parser | NetworkParser
) -> tuple[np.ndarray, list[bytes]]:
    """All pictures of the frames start .. stop-1: parsing/<i>.png, torso_imgs/<i>.png, ori_imgs/<i>.jpg and .lms, and
    gt_imgs/<i>.jpg (the person over the clean plate).

    Returns torso over plate, uint8 [n, H, W, 3], and the label maps as the pack holds them.
    """
    folder, clip = SubjectFolder(root), _clip(root, version)
    plates, maps = np.empty((stop - start, clip.size, clip.size, 3), np.uint8), []
    for i in range(start, stop):
        if folder.parsing(i).is_file() and folder.ground_truth(i).is_file():  # the first and the last of them
            labels, layer = read_labels(folder, i), read_image(folder.torso(i))
        else:
            frame, pose = clip.frame(i), (clip.rotation[i], clip.translation_cm[i])
            labels = parser.label(frame, clip.person(i), clip.landmarks[i], *pose)
            write_labels(folder, i, labels)
            layer = torso_layer(frame, labels, clip.plate.image, parser.neck, clip.plane(i))
            write_image(folder.torso(i), layer)
            _write_images(folder, i, frame, labels, clip)
        plates[i - start] = compose(layer, clip.plate.image)
        maps.append(encode_labels(labels))
    return plates, maps


def _write_images(folder: SubjectFolder, i: int, frame: np.ndarray, labels: np.ndarray, clip: ClipView) -> None:
    write_image(folder.image(i), frame)
    points = to_68_points(clip.landmarks[i : i + 1])[0]
    with atomic_path(folder.landmarks(i)) as partial:
        partial.write_text("".join(f"{x:.3f} {y:.3f}\n" for x, y in points.tolist()), encoding="ascii")
    person = cv2.compare(labels, int(Label.BACKGROUND), cv2.CMP_NE)
    write_image(folder.ground_truth(i), cv2.copyTo(frame, person, clip.plate.image.copy()))
