import pickle

import cv2
import numpy as np
import pytest
from made_speaker import make_speaker

from instag.data.layout import Label
from instag.data_utils.background import fit_plate
from instag.data_utils.segmentation import ColourCounts, Parser, colour_bins, fit_parser, refine_person
from instag.errors import DataError

HEAD = (Label.HEAD, Label.HAIR, Label.MOUTH)
BODY = (Label.NECK, Label.TORSO)


def iou(found, truth, classes):
    a, b = np.isin(found, classes), np.isin(truth, classes)
    return (a & b).sum() / (a | b).sum()


@pytest.fixture(scope="module")
def speaker():
    made = make_speaker(128, 12)
    made.plate = fit_plate(made.frame, made.person, made.count)
    return made


@pytest.fixture(scope="module")
def labels(speaker):
    parser = fit_parser(speaker)
    return np.stack([parser.label(*speaker.arguments(i)) for i in range(speaker.count)])


@pytest.mark.parametrize(
    ("classes", "least"),
    [
        (HEAD, 0.975),
        (BODY, 0.97),
        ((Label.BACKGROUND,), 0.985),
        ((Label.HEAD,), 0.96),
        ((Label.HAIR,), 0.96),
        ((Label.NECK,), 0.92),
        ((Label.TORSO,), 0.97),
        ((Label.MOUTH,), 0.85),
    ],
)
def test_labels_are_the_true_ones(speaker, labels, classes, least):
    assert iou(labels, speaker.truth, classes) > least


def test_labels_are_bytes_of_the_contract(labels):
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {int(label) for label in Label}


def test_closed_mouth_has_no_inside(speaker, labels):
    assert not (speaker.truth[0] == Label.MOUTH).any()  # closed in frame 0
    assert not (labels[0] == Label.MOUTH).any()


def test_no_islands(labels):
    """One piece of head and one of body in each frame: specks would flicker."""
    for frame in labels:
        for classes in (HEAD, BODY):
            count = cv2.connectedComponents(np.isin(frame, classes).astype(np.uint8))[0]
            assert count == 2


def test_fit_is_deterministic_and_survives_pickling(speaker, labels):
    parser = pickle.loads(pickle.dumps(fit_parser(speaker)))
    assert isinstance(parser, Parser)
    np.testing.assert_array_equal(parser.label(*speaker.arguments(5)), labels[5])


def test_other_sizes_and_no_plate():
    speaker = make_speaker(64, 6)
    parser = fit_parser(speaker)
    found = np.stack([parser.label(*speaker.arguments(i)) for i in range(speaker.count)])
    assert found.shape == speaker.truth.shape
    assert iou(found, speaker.truth, HEAD) > 0.9
    assert iou(found, speaker.truth, BODY) > 0.9


def test_labels_follow_the_jaw(speaker, labels):
    """The lowest head pixel moves with the true chin: the map alone would hold it still."""

    def chin(maps):
        return np.array([np.nonzero(np.isin(m, HEAD).any(1))[0].max() for m in maps])

    assert np.corrcoef(chin(labels), chin(speaker.truth))[0, 1] > 0.9
    assert np.abs(chin(labels) - chin(speaker.truth)).mean() < 1.5


def test_no_frames_is_an_error_that_says_so(speaker):
    empty = make_speaker(64, 0)
    with pytest.raises(DataError, match="no frames"):
        fit_parser(empty)


def test_refined_silhouette_is_nearer_to_the_truth_than_the_network_s(speaker):
    plate = speaker.plate
    for i in (1, 6):
        truth = speaker.truth[i] != Label.BACKGROUND
        alpha = refine_person(speaker.frame(i), speaker.person(i), plate.image, plate.seen)
        assert alpha.dtype == np.float32
        assert 0 <= alpha.min() <= alpha.max() <= 1
        before = ((speaker.person(i) > 127) != truth).sum()
        after = ((alpha > 0.5) != truth).sum()
        assert after < 0.4 * before


def test_a_flag_taken_for_a_person_is_dropped_from_the_silhouette(speaker):
    alpha = refine_person(speaker.frame(0), speaker.person(0), None, None)
    assert speaker.person(0)[4, 4] > 200
    assert alpha[:12, :10].max() == 0


def test_nobody_there_gives_an_empty_silhouette(speaker):
    nobody = np.zeros_like(speaker.person(0))
    assert not refine_person(speaker.frame(0), nobody, speaker.plate.image, speaker.plate.seen).any()


def test_colour_cells_are_in_range_and_tell_colours_apart():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    bins = colour_bins(image)
    assert bins.min() >= 0
    assert bins.max() < 32**3
    assert len(set(colour_bins(np.array([[(205, 150, 120), (70, 50, 35), (60, 70, 120)]], np.uint8))[0])) == 3


def test_colour_model_is_a_density_that_knows_neighbouring_colours():
    skin, similar, other = colour_bins(np.array([[(205, 150, 120), (208, 153, 121), (60, 70, 120)]], np.uint8))[0]
    counts = ColourCounts()
    counts.add(np.full((10, 10), skin), 2.0)
    model = counts.log_likelihood()
    np.testing.assert_allclose(np.exp(model).sum(), 1, atol=1e-3)
    assert model[skin] == model.max()
    assert model[similar] > model[other] + 3
