import cv2
import numpy as np
import pytest
from made_speaker import make_speaker

from instag.data.layout import Label
from instag.data_utils.contact_sheet import (
    FOOTER,
    GAP,
    HEADER,
    SHOWN_COLORS,
    TILE,
    SheetRow,
    contact_sheet,
    write_contact_sheet,
)
from instag.data_utils.torso import torso_layer
from instag.errors import DataError, InstagError


def rows(count=2, mesh=False):
    speaker = make_speaker(128, count)
    normal = np.zeros((128, 128, 3), np.float32)
    normal[40:80, 40:80] = (0, 0, 1)
    depth = 0.7 * normal[..., 2]
    return [
        SheetRow(
            10 * i,
            speaker.frames[i],
            speaker.landmarks[i],
            speaker.truth[i],
            speaker.room,
            torso_layer(speaker.frames[i], speaker.truth[i], speaker.room),
            normal if mesh else None,
            depth if mesh else None,
        )
        for i in range(count)
    ]


def tile(page, row, column):
    top, left = HEADER + row * (TILE + GAP), GAP + column * (TILE + GAP)
    return page[top : top + TILE, left : left + TILE]


@pytest.mark.parametrize(("mesh", "columns"), [(False, 6), (True, 8)])
def test_page_has_a_row_a_frame_and_a_column_a_result(mesh, columns):
    page = contact_sheet(rows(3, mesh), "title")
    assert page.shape == (HEADER + 3 * (TILE + GAP) + FOOTER, columns * (TILE + GAP) + GAP, 3)
    assert page.dtype == np.uint8
    for row in range(3):
        for column in range(columns):
            assert tile(page, row, column).std() > 5  # every place is filled


def test_tiles_show_what_they_say():
    made = rows(2)
    page = contact_sheet(made)
    plain = tile(page, 1, 0).astype(int)
    drawn = tile(page, 1, 1).astype(int)
    assert (np.abs(drawn - plain).max(-1) > 60).mean() > 0.01
    assert np.abs(tile(page, 1, 3)[60:] - plain[60:]).mean() < 6  # person over plate looks like the frame
    behind = tile(page, 1, 5)[TILE // 4, TILE // 2].astype(int)  # where the head was
    assert np.abs(behind - made[1].plate[32, 64]).max() < 12
    hair = np.nonzero(cv2.resize(made[1].labels, (TILE, TILE), interpolation=cv2.INTER_NEAREST) == Label.HAIR)
    shown = np.median(tile(page, 1, 2)[hair], axis=0)
    under = np.median(plain[hair], axis=0)
    assert np.abs(shown - (np.array(SHOWN_COLORS[Label.HAIR]) + under) / 2).max() < 20


def test_mesh_columns_only_where_every_row_has_them():
    mixed = [rows(1, mesh=True)[0], rows(1, mesh=False)[0]]
    assert contact_sheet(mixed).shape[1] == contact_sheet(rows(1)).shape[1]


def test_page_is_written_as_jpeg(tmp_path):
    path = tmp_path / "sheet.jpg"
    write_contact_sheet(path, rows(1), "a subject")
    assert path.read_bytes()[:3] == b"\xff\xd8\xff"
    read = cv2.imread(str(path))[..., ::-1]
    assert np.abs(read.astype(int) - contact_sheet(rows(1), "a subject")).mean() < 4
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.jpg"]


def test_errors_name_the_culprit(tmp_path):
    with pytest.raises(DataError, match="no frame"):
        contact_sheet([])
    (tmp_path / "sheet.jpg").mkdir()
    with pytest.raises(InstagError, match="sheet.jpg"):
        write_contact_sheet(tmp_path / "sheet.jpg", rows(1))
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.jpg"]
