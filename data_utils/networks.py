"""Networks that the user supplies as files: face parsing (ONNX or TorchScript), depth and normals (TorchScript).

A TorchScript file is a program: load those you trust. None is shipped: their licences are the user's matter
(`scripts/prepare.sh --list`). A parsing network comes with a table from its classes to ours: a ready one by the number
of its classes, or `<stem>.labels.json` beside the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from instag.data.layout import Label
from instag.data_utils.image_ops import strongest
from instag.data_utils.segmentation import Parser
from instag.data_utils.tidying import remove_specks
from instag.data_utils.torso import Neck
from instag.errors import DataError, InstagError

Network = Callable[[np.ndarray], np.ndarray]  # float32 [1, 3, h, w] -> float32 [1, C, h', w']
KEEP = 255  # a class that says nothing here: our own parser decides
NAMES = {**{label.name.lower(): int(label) for label in Label}, "keep": KEEP}

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RGB, of 255
SAPIENS_SIZE = (1024, 768)  # rows, columns
SAPIENS_MEAN, SAPIENS_STD = (123.5, 116.5, 103.5), (58.5, 57.0, 57.5)  # RGB, of 255
DEPTH_CHANNELS, NORMAL_CHANNELS = 1, 3
GEOMETRY = {DEPTH_CHANNELS: "depth", NORMAL_CHANNELS: "normal"}  # output channels -> folder below sapiens/


@dataclass(frozen=True)
class LabelTable:
    """How a parsing network wants its pictures and what its classes mean."""

    labels: tuple[int, ...]  # of each output channel: a `Label`, or KEEP
    size: int = 512  # px, side of the square input
    mean: tuple[float, ...] = IMAGENET_MEAN  # RGB, of 255
    std: tuple[float, ...] = IMAGENET_STD


def _table(names: str) -> LabelTable:
    return LabelTable(tuple(NAMES[name] for name in names.split()))


# background, skin, brows, eyes, glasses, ears, ear ring, nose | mouth | lips | neck, necklace | cloth | hair, hat
CELEBAMASK = _table("background " + "head " * 10 + "mouth head head neck neck torso hair hair")
# background, person | skin, brows, eyes, lips | teeth. "Person" is hair, neck and torso alike.
EASYPORTRAIT = _table("keep keep head head head head head head mouth")
TABLES = {len(table.labels): table for table in (CELEBAMASK, EASYPORTRAIT)}


def read_table(path: Path) -> LabelTable | None:
    """The table beside a network's file, `<stem>.labels.json`; None where there is none.

    A JSON object: `labels`, a list of names (background, head, hair, neck, torso, mouth; keep: as our own parser says),
    one a class; optional `size`, `mean`, `std`.
    """
    file = path.with_suffix(".labels.json")
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        labels = tuple(NAMES[name] for name in content.pop("labels"))
        content = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
        return LabelTable(labels, **content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        names = ", ".join(NAMES)
        raise DataError(f"{file}: not a label table ({error!r}); give labels ({names}), size, mean, std") from None


def load_network(path: Path) -> Network:
    """A network from an .onnx file, or from TorchScript (any other name); of several outputs the first.

    Raises DataError: no such file, or neither of both.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such network file; give an .onnx or a TorchScript file")
    return _load_onnx(path) if path.suffix.lower() == ".onnx" else _load_torchscript(path)


def _load_onnx(path: Path) -> Network:
    try:
        import onnxruntime
    except ImportError:
        return _load_onnx_by_opencv(path)
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base
        raise DataError(f"{path}: onnxruntime cannot load it ({_first_line(error)}); export it again") from None
    name = session.get_inputs()[0].name
    return lambda batch: np.asarray(session.run(None, {name: batch})[0], np.float32)


def _load_onnx_by_opencv(path: Path) -> Network:
    try:
        network = cv2.dnn.readNetFromONNX(str(path))
    except cv2.error as error:
        reason = _first_line(error)
        raise DataError(f"{path}: OpenCV cannot load it ({reason}); pip install onnxruntime, or export again") from None

    def run(batch: np.ndarray) -> np.ndarray:
        network.setInput(batch)
        return network.forward()

    return run


def _load_torchscript(path: Path) -> Network:
    import torch

    try:
        module = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        reason = _first_line(error)
        raise DataError(
            f"{path}: not TorchScript ({reason}); export it with torch.jit.trace(network, example)"
        ) from None

    def run(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            output = module(torch.from_numpy(batch))
        while not isinstance(output, torch.Tensor):
            output = next(iter(output.values())) if isinstance(output, dict) else output[0]
        return output.float().numpy()

    return run


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _run(
    network: Network, path: Path, frame: np.ndarray, shape: tuple[int, int], mean: tuple, std: tuple
) -> np.ndarray:
    """The network's first output for a picture, float32 [C, h, w]; `shape` (rows, columns) is that of its input."""
    picture = cv2.resize(frame, shape[::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32)
    batch = ((picture - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)[None]
    try:
        output = network(np.ascontiguousarray(batch))
    except (RuntimeError, cv2.error, ValueError) as error:
        raise DataError(f"{path}: fails on a picture of {shape[0]}x{shape[1]} px ({_first_line(error)})") from None
    if output.ndim != 4 or len(output) != 1:
        raise DataError(f"{path}: gives {list(output.shape)}, expected [1, classes, rows, columns] before any argmax")
    return output[0]


# --- parsing ------------------------------------------------------------------------------------------------------
@lru_cache(maxsize=2)
def _cached_network(path: Path) -> Network:
    return load_network(path)


@dataclass(frozen=True)
class NetworkParser:
    """Labels frames by the user's network; where that says `keep`, by our own parser. Loads in each worker anew."""

    path: Path
    table: LabelTable | None  # None: a ready one, by the number of classes
    own: Parser

    @property
    def neck(self) -> Neck | None:
        """The clip's, as our own parser sees it."""
        return self.own.neck

    def label(
        self,
        frame: np.ndarray,
        person: np.ndarray,
        landmarks: np.ndarray,
        rotation: np.ndarray,
        translation_cm: np.ndarray,
    ) -> np.ndarray:
        """Label map uint8 [H, W] of one frame; arguments as those of `Parser.label`."""
        table = self.table or TABLES[len(CELEBAMASK.labels)]
        scores = _run(_cached_network(self.path), self.path, frame, (table.size, table.size), table.mean, table.std)
        if self.table is None:
            table = self._ready_table(len(scores))
        if len(scores) != len(table.labels):
            raise DataError(f"{self.path}: gives {len(scores)} classes, its label table has {len(table.labels)}")
        planes = [cv2.resize(x, frame.shape[1::-1], interpolation=cv2.INTER_LINEAR) for x in scores]
        labels = np.array(table.labels, np.uint8)[strongest(np.dstack(planes))]
        if KEEP in table.labels:
            labels = np.where(
                labels == KEEP, self.own.label(frame, person, landmarks, rotation, translation_cm), labels
            )
        return remove_specks(labels)

    def _ready_table(self, classes: int) -> LabelTable:
        if classes not in TABLES:
            known = " or ".join(map(str, sorted(TABLES)))
            file = self.path.with_suffix(".labels.json").name
            raise DataError(f"{self.path}: {classes} classes, ready tables are for {known}; write {file} beside it")
        return TABLES[classes]


# --- depth and normals --------------------------------------------------------------------------------------------
def geometry_of(network: Network, path: Path, frame: np.ndarray) -> tuple[str, np.ndarray]:
    """What a network of Sapiens' convention says of a picture: `depth` float16 [H, W] or `normal` float16 [H, W, 3].

    Input 1024 x 768, RGB, normalised by Sapiens' constants. One output channel is depth as it comes; three are normals,
    made unit. Both at the picture's size, as Sapiens' own scripts save them.
    """
    output = _run(network, path, frame, SAPIENS_SIZE, SAPIENS_MEAN, SAPIENS_STD)
    if len(output) not in GEOMETRY:
        raise DataError(f"{path}: gives {len(output)} channels; depth has {DEPTH_CHANNELS}, normals {NORMAL_CHANNELS}")
    field = np.dstack([cv2.resize(x, frame.shape[1::-1], interpolation=cv2.INTER_LINEAR) for x in output]).squeeze()
    if field.ndim == 3:
        field = field / np.maximum(np.linalg.norm(field, axis=-1, keepdims=True), 1e-6)
    if not np.isfinite(field).all():
        raise InstagError(f"{path}: gives values that are no numbers; export it in float32")
    return GEOMETRY[len(output)], field.astype(np.float16)
