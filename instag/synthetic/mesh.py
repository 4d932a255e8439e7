"""The whole person as one triangle mesh at rest: skin, its rolled edges at lids and lips, and all parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instag.synthetic import materials
from instag.synthetic.face import Face, build_face
from instag.synthetic.identity import Identity
from instag.synthetic.parts import Part, build_parts

# Depth (cm) to which the rolled edges reach inwards: lid margins and inner lips.
LID_ROLL = np.array([0, 0.12, 0.35])
LIP_ROLL = np.array([0, 0.15, 0.4, 0.8, 1.6, 2.8])
ROLLS = {"lid_upper": LID_ROLL, "lid_lower": LID_ROLL, "lip_upper": LIP_ROLL, "lip_lower": LIP_ROLL}


@dataclass(frozen=True)
class Mesh:
    """V vertices, M triangles. The skin's points come first, then each roll and part in its slice."""

    face: Face
    parts: dict[str, Part]
    slices: dict[str, slice]  # vertices of each roll and part
    triangles: np.ndarray  # [M, 3] int32
    material: np.ndarray  # [M] int32, see materials
    attribute: np.ndarray  # [V, 3] float32: chart X, chart Y and |angle| or roll depth on skin; per part elsewhere

    @property
    def vertices(self) -> int:
        """Number of vertices V."""
        return len(self.attribute)


def build_mesh(identity: Identity) -> Mesh:
    """Return the mesh of this person at rest."""
    face, parts = build_face(identity), build_parts(identity)
    builder = _Builder(np.column_stack([face.chart, face.angle]))
    for grid in face.grids:
        builder.add_quads(grid, materials.SKIN)
    for name, depths in ROLLS.items():
        lips = name.startswith("lip")
        chart = face.chart[face.edges[name]]
        attribute = np.stack([np.column_stack([chart, np.full(len(chart), depth)]) for depth in depths])
        builder.add_grid(
            name,
            attribute,
            materials.LIP_INNER if lips else materials.LID_EDGE,
            columns=_open_quads(face.mouth_columns if lips else face.eye_columns),
            flip=name.endswith("lower"),
        )
    for name, part in parts.items():
        builder.add_grid(name, part.attribute, part.material)
    triangles, material, attribute = builder.finish()
    return Mesh(face, parts, builder.slices, triangles, material, attribute)


def _open_quads(columns: np.ndarray) -> np.ndarray:
    """Return which of the C-1 quads of a row touch an open column."""
    return columns[:-1] | columns[1:]


class _Builder:
    def __init__(self, attribute: np.ndarray):
        self._attributes = [attribute]
        self._count = len(attribute)
        self._triangles: list[np.ndarray] = []
        self._materials: list[np.ndarray] = []
        self.slices: dict[str, slice] = {}

    def add_quads(self, grid: np.ndarray, material: int, columns: np.ndarray | None = None) -> None:
        quads = np.stack([grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]], -1)
        if columns is not None:
            quads = quads[:, columns]
        quads = quads.reshape(-1, 4)
        self._triangles += [quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]
        self._materials.append(np.full(2 * len(quads), material))

    def add_grid(
        self, name: str, attribute: np.ndarray, material: int, columns: np.ndarray | None = None, flip: bool = False
    ) -> None:
        rows, width = attribute.shape[:2]
        grid = np.arange(rows * width).reshape(rows, width) + self._count
        self.slices[name] = slice(self._count, self._count + rows * width)
        self._count += rows * width
        self._attributes.append(attribute.reshape(-1, 3))
        if flip:
            grid, columns = grid[:, ::-1], None if columns is None else columns[::-1]
        self.add_quads(grid, material, columns)

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        triangles = np.concatenate(self._triangles).astype(np.int32)
        attribute = np.concatenate(self._attributes).astype(np.float32)
        return np.ascontiguousarray(triangles), np.concatenate(self._materials).astype(np.int32), attribute
