import cv2
import numpy as np
import pytest
from made_speaker import SHADE, make_speaker

from instag.data.layout import Label
from instag.data_utils.head_plane import HeadPlane
from instag.data_utils.image_ops import scaled_px
from instag.data_utils.torso import NECK_REACH_PX, TORSO_REACH_PX, compose, fit_neck, torso_layer


@pytest.fixture(scope="module", params=[128, 256])
def made(request):
    speaker = make_speaker(request.param, 3)
    return speaker.frames[2], speaker.truth[2], speaker.room


@pytest.fixture(scope="module")
def layer(made):
    return torso_layer(*made)


def body_of(labels):
    return np.isin(labels, (Label.NECK, Label.TORSO))


def head_of(labels):
    return np.isin(labels, (Label.HEAD, Label.HAIR, Label.MOUTH))


def test_layer_is_rgba_and_transparent_colour_is_black(layer, made):
    assert layer.dtype == np.uint8
    assert layer.shape == (*made[1].shape, 4)
    assert not layer[layer[..., 3] == 0].any()


def test_visible_body_comes_back(layer, made):
    frame, labels, room = made
    composite = compose(layer, room)
    difference = np.abs(composite.astype(int) - frame).max(-1)
    head = head_of(labels)
    rows = np.arange(len(labels))[:, None]
    below_head = rows > np.nonzero(head.any(1))[0].max() + 4
    visible = body_of(labels) & below_head
    assert difference[visible].max() <= 2
    background = (labels == Label.BACKGROUND) & (layer[..., 3] > 0)
    assert background.any()  # the soft edge
    assert np.percentile(difference[background & below_head], 95) <= 10


def test_background_and_the_upper_head_stay_clear(layer, made):
    _, labels, _ = made
    size = len(labels)
    rows = np.arange(size)[:, None]
    body_top = np.where(body_of(labels).any(0), body_of(labels).argmax(0), size)
    too_high = rows < body_top - scaled_px(NECK_REACH_PX, size) - scaled_px(12, size)
    assert not layer[too_high & head_of(labels)].any()
    background = (labels == Label.BACKGROUND).astype(np.uint8)
    far = cv2.erode(background, np.ones((7, 7), np.uint8)) > 0
    assert not layer[far].any()


def test_neck_goes_on_behind_the_head_in_its_own_colour(layer, made):
    _, labels, _ = made
    size = len(labels)
    column = int(np.nonzero((labels == Label.NECK).any(0))[0].mean())
    top = np.nonzero(labels[:, column] == Label.NECK)[0].min()
    reach = round(NECK_REACH_PX * size / 512)
    hidden = layer[top - reach + 6 : top, column]
    assert head_of(labels[top - reach + 6 : top, column]).all()
    assert (hidden[:, 3] > 250).all()
    shade = hidden[:, :3].astype(float) / np.array(SHADE)
    assert np.ptp(shade, axis=1).max() < 0.08  # the neck's hue, not the face's
    assert (np.diff(shade.mean(1)) >= -0.01).all()  # darker upwards
    assert 0.3 < shade.mean() < 1


def test_collar_goes_on_a_little_only(made):
    frame, labels, room = made
    size = len(labels)
    labels = np.where(labels == Label.NECK, np.uint8(Label.TORSO), labels)
    layer = torso_layer(frame, labels, room)
    column = size // 2
    top = np.nonzero(labels[:, column] == Label.TORSO)[0].min()
    opaque = np.nonzero(layer[:, column, 3] > 128)[0].min()
    reach = round(TORSO_REACH_PX * size / 512)
    assert 0 < top - opaque <= reach + 2


def made_collar(size, notch=0):
    """A head between two tips of a collar, which it hides in the middle: frame, labels, plate."""
    frame, labels = np.full((size, size, 3), 40, np.uint8), np.full((size, size), Label.BACKGROUND, np.uint8)
    y, x = np.mgrid[:size, :size] / size
    labels[y > 0.5 + 0.8 * (np.abs(x - 0.5) - 0.2).clip(0)] = Label.TORSO  # a shoulder to each side, level between
    labels[((x - 0.5) / 0.2) ** 2 + ((y - 0.3) / 0.29) ** 2 < 1] = Label.HEAD  # its lower end at .59
    labels[int(0.5 * size) : int(0.5 * size) + notch, int(0.68 * size)] = Label.BACKGROUND  # a slip of the label map
    for label, colour in ((Label.TORSO, (200, 210, 220)), (Label.HEAD, (210, 150, 120))):
        frame[labels == label] = colour
    return frame, labels, np.full_like(frame, 40)


@pytest.mark.parametrize(("size", "notch"), [(128, 0), (512, 0), (512, 4)])
def test_behind_the_jaw_the_body_reaches_the_line_between_its_edges_beside_the_head(size, notch):
    """So that a head drawn higher or to the side uncovers no background below the tips of the collar."""
    frame, labels, plate = made_collar(size, notch)
    layer = torso_layer(frame, labels, plate)
    tip, middle = size // 2, size // 2
    behind = layer[tip + scaled_px(8, size) : int(0.59 * size), int(0.35 * size) : int(0.65 * size)]
    assert behind[..., 3].min() > 230
    assert not layer[: tip - scaled_px(12, size), :, 3].any()  # but not beyond it
    colour = behind[..., :3].astype(float)
    assert np.ptp(colour / (200, 210, 220), axis=-1).max() < 0.05  # the collar's, in the shade
    assert (np.diff(layer[tip + scaled_px(8, size) : int(0.59 * size), middle, 1].astype(int)) >= 0).all()


def test_beside_the_head_nothing_of_its_colour_is_left():
    """The head's colour reaches some pixels into what is labelled body."""
    frame, labels, plate = made_collar(512)
    mixed = (cv2.dilate((labels == Label.HEAD).astype(np.uint8), np.ones((5, 5))) > 0) & (labels == Label.TORSO)
    frame[mixed] = (210, 150, 120)
    layer = torso_layer(frame, labels, plate)
    solid = layer[layer[..., 3] == 255][:, :3].astype(float)
    assert np.ptp(solid / (200, 210, 220), axis=-1).max() < 0.08


def test_a_stray_column_of_neck_is_not_continued():
    """A few pixels called neck beside the chin must not become a spike behind the head."""
    speaker = make_speaker(512, 1)
    frame, labels = speaker.frames[0], speaker.truth[0].copy()
    labels[np.isin(labels, (Label.NECK, Label.TORSO))] = Label.HEAD
    labels[300:320, 250:256] = Label.NECK  # two columns of it are clear of the head's margin
    layer = torso_layer(frame, labels, speaker.room)
    assert not layer[:290, :, 3].any()
    labels[300:320, 230:276] = Label.NECK  # a real neck is
    assert (torso_layer(frame, labels, speaker.room)[270:290, 250, 3] == 255).all()


def test_a_neck_that_the_chin_hides_is_the_clip_s():
    speaker = make_speaker(256, 3)
    plane = HeadPlane.from_pose(speaker.rotation[0], speaker.translation_cm[0], speaker.focal, 256)
    neck = fit_neck(speaker.frames, speaker.truth == Label.NECK, [plane] * speaker.count)
    left, right = neck.columns(plane)
    columns = np.nonzero((speaker.truth[0] == Label.NECK).any(0))[0]
    assert abs(left - columns.min()) < 8 and abs(right - columns.max()) < 8
    frame, labels = speaker.frames[0].copy(), speaker.truth[0].copy()
    frame[labels == Label.NECK] = frame[100, 128]
    labels[labels == Label.NECK] = Label.HEAD  # the chin is down: not a pixel of neck is left
    top = np.nonzero((labels == Label.TORSO)[:, 128])[0].min()
    layer = torso_layer(frame, labels, speaker.room, neck, plane)
    behind = slice(top - 20, top - 10), slice(112, 144)
    assert (layer[behind][..., 3] == 255).all()
    shade = layer[behind][..., :3].mean((0, 1)) / neck.colour
    assert (shade > 0.4).all() and np.ptp(shade) < 0.1  # the neck's colour, darker, not the collar's
    assert not layer[: top - 40, :, 3].any()
    speck = slice(top - 6, top), slice(124, 132)  # that the label map calls neck
    labels[speck], frame[speck] = Label.NECK, (255, 0, 0)
    again = torso_layer(frame, labels, speaker.room, neck, plane)[behind][..., :3]
    assert np.abs(again.astype(float) - layer[behind][..., :3]).max() < 25  # it is not spread over the neck


def test_a_clip_without_a_visible_neck_has_none():
    speaker = make_speaker(64, 2)
    assert fit_neck(speaker.frames, np.zeros((2, 64, 64), bool), [None] * 2) is None


def test_no_body_gives_an_empty_layer(made):
    frame, labels, room = made
    nobody = np.where(body_of(labels), np.uint8(Label.BACKGROUND), labels)
    assert not torso_layer(frame, nobody, room).any()
    np.testing.assert_array_equal(compose(torso_layer(frame, nobody, room), room), room)


def test_compose_is_the_formula_of_the_field():
    rng = np.random.default_rng(0)
    layer = rng.integers(0, 256, (32, 32, 4), dtype=np.uint8)
    layer[:8, :, 3], layer[8:16, :, 3] = 0, 255
    plate = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    alpha = layer[..., 3:].astype(np.float32) / 255
    expected = (layer[..., :3] * alpha + plate * (1 - alpha)).astype(np.uint8)
    np.testing.assert_array_equal(compose(layer, plate), expected)
