import cv2
import numpy as np
import pytest

from instag.data_utils.pieces import Pieces, largest_piece


@pytest.mark.parametrize(("shape", "softness"), [((60, 70), 1), ((256, 200), 1), ((256, 200), 4)])
def test_pieces_are_the_components_of_each_label(shape, softness):
    """Against OpenCV, one label at a time."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).random(shape, np.float32), (0, 0), softness)
    labels = (np.digitize(noise, np.quantile(noise, [0.3, 0.6, 0.8])) - 1).astype(np.int8)
    pieces = Pieces.of(labels)
    number = np.empty(shape, int)
    for row, first, stop, piece in pieces.runs:
        number[row, first:stop] = piece
    found = 0
    for label in np.unique(labels):
        count, components, stats, _ = cv2.connectedComponentsWithStats((labels == label).view(np.uint8), connectivity=8)
        for k in range(1, count):
            rows, columns = np.nonzero(components == k)
            (piece,) = np.unique(number[rows, columns])
            assert (pieces.label[piece], pieces.area[piece]) == (label, stats[k, cv2.CC_STAT_AREA])
            assert pieces.last_row[piece] == rows.max()
            assert pieces.at(rows[0], columns[0]) == piece
        found += count - 1
    assert found == len(pieces.label)


def test_pieces_touch_a_mask_and_become_one():
    labels = np.zeros((20, 20), np.uint8)
    labels[1:4, 1:4] = 1
    labels[4, 4] = 1  # by its corner
    labels[10:18, 10:18] = 2
    corner = np.zeros(labels.shape, bool)
    corner[4, 4:12] = corner[0, 0] = True
    pieces = Pieces.of(labels)
    assert pieces.label.tolist() == [0, 1, 2] and pieces.area.tolist() == [400 - 10 - 64, 10, 64]
    assert pieces.touching(corner).tolist() == [True, True, False]
    np.testing.assert_array_equal(pieces.mask(pieces.label > 0), labels > 0)
    assert not pieces.mask(pieces.label > 5).any()


def test_largest_piece():
    mask = np.zeros((20, 30), bool)
    mask[2:5, 2:5] = mask[8:18, 8:18] = True
    largest = largest_piece(mask)
    assert largest.sum() == 100 and largest[8, 8]
    assert not largest_piece(np.zeros((9, 9), bool)).any()
    assert largest_piece(np.ones((9, 9), bool)).all()
