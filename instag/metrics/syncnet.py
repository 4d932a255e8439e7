"""Sync-C and Sync-D by SyncNet (Chung & Zisserman 2016), from weights that the user has: nothing is downloaded here.

Two networks embed 0.2 s of lips (5 pictures of the face, 224 px) and of sound (20 steps of 13 cepstra at 100 Hz) into
one space of 1024 dimensions. The distance between a picture window and the sound k frames away, averaged over the clip,
has its minimum Sync-D (METHOD.md section 8: Sync-E) where they belong together; Sync-C is how far the median over k
lies above it. The face is cut out by our landmarks, not by the detector of the published evaluation, so compare figures
made here with each other. Weights: the published `syncnet_v2.model`, or the same names as `.safetensors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instag.audio.mfcc import mfcc
from instag.data.layout import SAMPLE_RATE
from instag.data.pictures import opencv
from instag.errors import DataError
from instag.metrics.landmarks import TRACKING_SIZE, FaceTrack
from instag.metrics.lpips import read_weights

WINDOW = 5  # pictures
SOUND_STEPS_PER_PICTURE = 4  # 100 Hz over 25 fps
SOUND_WINDOW = WINDOW * SOUND_STEPS_PER_PICTURE
LARGEST_OFFSET = 15  # pictures
CROP = 224  # px
CROP_MARGIN = 0.4  # of half the face's box: beside and, twice, below it
SMOOTHING = 13  # pictures: running median of the box
CHUNK = 16  # windows embedded together
PAIR_EPSILON = 1e-6  # added to each difference, as torch's pairwise distance has it

# Published names of the four parts -> ours.
PARTS = {"netcnnaud": "sound", "netfcaud": "sound_head", "netcnnlip": "lips", "netfclip": "lips_head"}


def _layers(convolutions: Sequence[nn.Module], pools: dict[int, nn.Module]) -> nn.Sequential:
    """Convolution, batch norm, ReLU, and a pooling after some of them."""
    layers: list[nn.Module] = []
    for index, convolution in enumerate(convolutions):
        norm = nn.BatchNorm3d if isinstance(convolution, nn.Conv3d) else nn.BatchNorm2d
        layers += [convolution, norm(convolution.out_channels), nn.ReLU(inplace=True)]
        layers += [pools[index]] if index in pools else []
    return nn.Sequential(*layers)


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True), nn.Linear(512, 1024))


class SyncNet(nn.Module):
    """Both networks; they never learn here."""

    def __init__(self) -> None:
        super().__init__()
        self.sound = _layers(
            [
                nn.Conv2d(1, 64, 3, padding=1),
                nn.Conv2d(64, 192, 3, padding=1),
                nn.Conv2d(192, 384, 3, padding=1),
                nn.Conv2d(384, 256, 3, padding=1),
                nn.Conv2d(256, 256, 3, padding=1),
                nn.Conv2d(256, 512, (5, 4)),
            ],
            {0: nn.Identity(), 1: nn.MaxPool2d(3, (1, 2)), 4: nn.MaxPool2d(3, 2)},
        )
        plane = {"kernel_size": (1, 3, 3), "padding": (0, 1, 1)}
        halving = {"kernel_size": (1, 3, 3), "stride": (1, 2, 2)}
        self.lips = _layers(
            [
                nn.Conv3d(3, 96, (WINDOW, 7, 7), (1, 2, 2)),
                nn.Conv3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1)),
                nn.Conv3d(256, 256, **plane),
                nn.Conv3d(256, 256, **plane),
                nn.Conv3d(256, 256, **plane),
                nn.Conv3d(256, 512, (1, 6, 6)),
            ],
            {0: nn.MaxPool3d(**halving), 1: nn.MaxPool3d(**halving, padding=(0, 1, 1)), 4: nn.MaxPool3d(**halving)},
        )
        self.sound_head, self.lips_head = _head(), _head()
        self.eval().requires_grad_(False)

    def embed_lips(self, pictures: Tensor) -> Tensor:
        """T pictures [T, 3, 224, 224], BGR in 0..255 -> [T - 4, 1024]: window i are the pictures i .. i + 4."""
        x = self.lips(pictures.transpose(0, 1)[None])  # [1, 512, T - 4, 1, 1]
        return self.lips_head(x[0, :, :, 0, 0].T)

    def embed_sound(self, cepstra: Tensor) -> Tensor:
        """Windows of cepstra [n, 13, 20] -> [n, 1024]."""
        return self.sound_head(self.sound(cepstra[:, None]).flatten(1))


def load_syncnet(path: Path, device: torch.device | str = "cpu") -> SyncNet:
    """SyncNet from a file; nothing in it is executed.

    Raises:
        DataError: missing, damaged, or something else.
    """
    state = read_weights(path)
    try:
        renamed = {f"{PARTS[name.partition('.')[0]]}.{name.partition('.')[2]}": t for name, t in state.items()}
        network = SyncNet()
        network.load_state_dict(renamed)
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise DataError(f"{path}: not SyncNet's weights ({reason}); give syncnet_v2.model") from None
    return network.to(device)


# --- scores (pure) --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class SyncScores:
    """confidence: Sync-C. distance: Sync-D. lag: pictures by which the lips come late, at the best offset."""

    confidence: float
    distance: float
    lag: int


def sync_scores(lips: Tensor, sound: Tensor) -> SyncScores:
    """Scores of embeddings [n, D] of the same n windows; past both ends the sound's embedding is zero, as published."""
    padded = F.pad(sound, (0, 0, LARGEST_OFFSET, LARGEST_OFFSET))  # [n + 30, D]
    shifted = padded.unfold(0, 2 * LARGEST_OFFSET + 1, 1)  # [n, D, 31]: the sound from 15 pictures earlier on
    distances = (lips[..., None] - shifted + PAIR_EPSILON).norm(dim=1).mean(0)  # [31]
    best = int(distances.argmin())
    return SyncScores(float(distances.median() - distances[best]), float(distances[best]), LARGEST_OFFSET - best)


# --- a clip ---------------------------------------------------------------------------------------------------------
def face_boxes(track: FaceTrack, size: int) -> np.ndarray:
    """Centre x, y and half side of the square to cut out, px of pictures of that size, float [T, 3]; smoothed.

    A picture without a face takes the box of its nearest neighbour that has one; DataError where none has.
    """
    if not track.found.any():
        raise DataError("no face is found in any picture")
    known = np.flatnonzero(track.found)
    nearest = known[np.abs(np.arange(len(track))[:, None] - known).argmin(1)]
    points = track.mesh[nearest][..., :2] * (size / TRACKING_SIZE)
    low, high = points.min(1), points.max(1)  # [T, 2]
    box = np.column_stack([(low + high) / 2, (high - low).max(1) / 2])
    reach = SMOOTHING // 2
    padded = np.pad(box, ((reach, reach), (0, 0)), mode="edge")
    box = np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHING, axis=0), axis=-1)
    half = box[:, 2]
    return np.column_stack([box[:, 0], box[:, 1] + CROP_MARGIN * half, (1 + CROP_MARGIN) * half])


def cut_out(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The square of a picture uint8 RGB [H, W, 3] as BGR [224, 224, 3]; grey outside the picture."""
    x, y, half = box
    scale = CROP / (2 * half)
    to_crop = np.array([[scale, 0, -scale * (x - half)], [0, scale, -scale * (y - half)]])
    grey = (110, 110, 110)
    return opencv().warpAffine(picture[..., ::-1], to_crop, (CROP, CROP), borderValue=grey)


def sound_windows(samples: np.ndarray, rate: int, count: int) -> Tensor:
    """Cepstra of the first `count` windows, [count, 13, 20]: window i starts with picture i. DataError: too short."""
    if rate != SAMPLE_RATE:
        raise DataError(f"SyncNet hears {SAMPLE_RATE} Hz, the sound has {rate} Hz; process the clip anew")
    cepstra = mfcc(samples * 32768.0, rate)  # [K, 13], int16 scale
    needed = (count - 1) * SOUND_STEPS_PER_PICTURE + SOUND_WINDOW
    # The last window's sound may end with the clip, a few steps short of what its pictures cover.
    cepstra = np.pad(cepstra, ((0, max(0, needed - len(cepstra))), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(cepstra[:needed], SOUND_WINDOW, axis=0)
    return torch.from_numpy(windows[::SOUND_STEPS_PER_PICTURE].astype(np.float32))


@torch.no_grad()
def measure_sync(
    network: SyncNet, pictures: Sequence[np.ndarray], track: FaceTrack, samples: np.ndarray, rate: int
) -> SyncScores:
    """Scores of a clip.

    Args:
        network: `load_syncnet`.
        pictures: n of them, uint8 RGB [H, W, 3], at 25 fps.
        track: their landmarks.
        samples, rate: their sound, float [S] in [-1, 1], 16 kHz, from the first picture on.

    Raises:
        DataError: fewer pictures than two windows have, no face, or another rate.
    """
    count = len(pictures) - WINDOW + 1
    if count < 2:
        raise DataError(f"SyncNet needs {WINDOW + 1} pictures, here are {len(pictures)}")
    device = next(network.parameters()).device
    boxes = face_boxes(track, pictures[0].shape[0])
    sound = sound_windows(samples, rate, count).to(device)
    lips = []
    for start in range(0, count, CHUNK):
        span = range(start, min(start + CHUNK, count) + WINDOW - 1)
        crops = np.stack([cut_out(np.asarray(pictures[i]), boxes[i]) for i in span])
        lips.append(network.embed_lips(torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float()))
    return sync_scores(torch.cat(lips), torch.cat([network.embed_sound(part) for part in sound.split(CHUNK)]))
