"""LPIPS with AlexNet (Zhang et al. 2018), from weights that the user has on disk: nothing is downloaded here.

Two files are needed: torchvision's `alexnet` state dict (names `features.0.weight`, ...) and the LPIPS heads v0.1
(names `lin0.model.1.weight`, ...; the `lpips` package's `alex.pth`), each as `.pth` or `.safetensors`.
"""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from instag.errors import DataError
from instag.losses import patches as cut_patches

WEIGHTS_VARIABLE = "INSTAG_WEIGHTS"
WEIGHTS_FOLDER = Path("~/.cache/instag/weights")
TRUNK_NAMES = ("alexnet", "alexnet-owt-7be5be79", "alexnet-owt-4df8aa71")
HEAD_NAMES = ("lpips_alex", "alex")
SUFFIXES = (".safetensors", ".pth")

# AlexNet's convolutions: index in `features`, channels in and out, kernel, stride, padding.
CONVOLUTIONS = (
    (0, 3, 64, 11, 4, 2),
    (3, 64, 192, 5, 1, 2),
    (6, 192, 384, 3, 1, 1),
    (8, 384, 256, 3, 1, 1),
    (10, 256, 256, 3, 1, 1),
)
POOLED_BEFORE = (3, 6)  # convolutions that follow a 3x3 max pooling of stride 2
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # LPIPS's normalisation of images in [-1, 1]
EPSILON = 1e-10
SMALLEST = 32  # px; of smaller images the second pooling leaves nothing

_log = logging.getLogger(__name__)


class WeightFiles(NamedTuple):
    """Paths of the AlexNet trunk and of the LPIPS heads."""

    trunk: Path
    heads: Path


def weights_folder() -> Path:
    """Where weights are looked for: $INSTAG_WEIGHTS, else ~/.cache/instag/weights."""
    return Path(os.environ.get(WEIGHTS_VARIABLE) or WEIGHTS_FOLDER).expanduser()


def find_weights(folder: Path | None = None) -> WeightFiles | None:
    """The two files below a folder (default: `weights_folder()`), or None where one of them is absent."""
    folder = folder or weights_folder()
    found = [
        next((path for name in names for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)
        for names in (TRUNK_NAMES, HEAD_NAMES)
    ]
    return None if None in found else WeightFiles(*found)


class LPIPS(nn.Module):
    """Perceptual distance of images in [0, 1]; its own weights never learn.

    Args:
        trunk: torchvision's AlexNet state dict (the classifier is not used).
        heads: LPIPS heads, `lin{0..4}.model.1.weight` [1, C, 1, 1].

    Raises:
        KeyError: a name is missing. RuntimeError: a tensor has another shape.
    """

    def __init__(self, trunk: dict[str, Tensor], heads: dict[str, Tensor]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(*sizes) for _, *sizes in CONVOLUTIONS)
        self.heads = nn.ModuleList(nn.Conv2d(outputs, 1, 1, bias=False) for _, _, outputs, *_ in CONVOLUTIONS)
        for layer, ((index, *_), convolution, head) in enumerate(
            zip(CONVOLUTIONS, self.convolutions, self.heads, strict=True)
        ):
            convolution.load_state_dict({part: trunk[f"features.{index}.{part}"] for part in ("weight", "bias")})
            head.load_state_dict({"weight": heads[f"lin{layer}.model.1.weight"]})
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])
        self.requires_grad_(False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Unit feature vectors after each convolution: images [B, 3, H, W] in [0, 1] -> 5 x [B, C, h, w]."""
        x = (2 * images - 1 - self.shift) / self.scale
        out = []
        for (index, *_), convolution in zip(CONVOLUTIONS, self.convolutions, strict=True):
            x = F.relu(convolution(F.max_pool2d(x, 3, 2) if index in POOLED_BEFORE else x))
            out.append(x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + EPSILON))
        return out

    def forward(self, render: Tensor, target: Tensor) -> Tensor:
        """Distances [B] of images [B, 3, H, W] in [0, 1], H and W at least 32; symmetric, 0 for equal images."""
        pairs = zip(self.features(render), self.features(target), self.heads, strict=True)
        return torch.stack([head((a - b) ** 2).mean((1, 2, 3)) for a, b, head in pairs]).sum(0)

    def patches(self, render: Tensor, target: Tensor, size: int) -> Tensor:
        """Mean distance over the non-overlapping patches of `size` px, at least 32 (METHOD.md section 6)."""
        return self(cut_patches(render, size), cut_patches(target, size)).mean()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a `.safetensors` or torch file by name; nothing that it holds is executed. DataError: unreadable."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, SafetensorError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not readable as weights ({reason}); fetch the file again or remove it") from None


def load_lpips(device: torch.device | str = "cpu", files: WeightFiles | None = None) -> LPIPS | None:
    """LPIPS on a device from files (default: `find_weights()`); None, said in the log, where there are none.

    Raises:
        DataError: a file that is there is damaged or holds something else.
    """
    files = files or find_weights()
    if files is None:
        _log.warning(
            "LPIPS is off: put AlexNet's (%s.pth) and the LPIPS heads' (%s.pth) weights into %s to use it",
            TRUNK_NAMES[0],
            HEAD_NAMES[0],
            weights_folder(),
        )
        return None
    trunk, heads = read_weights(files.trunk), read_weights(files.heads)
    try:
        return LPIPS(trunk, heads).to(device)
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        both = f"{files.trunk} and {files.heads}"
        raise DataError(f"{both}: not AlexNet and LPIPS heads ({reason}); fetch them again or remove them") from None
