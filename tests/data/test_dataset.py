import shutil
import threading

import cv2
import numpy as np
import pytest
import torch

from instag.data.dataset import SubjectDataset, inner_lip_heights, lip_rectangles
from instag.data.pictures import VideoFrames
from instag.data.layout import EXPRESSION_UNITS, LABEL_COLORS, Label, SubjectFolder
from instag.data.subject_folder import FolderSource, labels_from_colors, lay_over
from instag.data.pack import write_pack
from instag.data.streamed import RING, FrameFile
from instag.errors import DataError

MADE_FRAMES, MADE_SIZE = 60, 64  # of the fixture `made_subject`
FRAMES = [3, 59, 0, 30, 3]


@pytest.fixture(scope="module")
def dataset(made_subject):
    with SubjectDataset.open(made_subject) as opened:
        yield opened


def psnr(a, b):
    error = np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)
    return 10 * np.log10(1 / max(error, 1e-12))


def test_batch_has_the_shapes_and_ranges_of_the_contract(dataset):
    batch = dataset.batch(FRAMES)
    size = (MADE_SIZE, MADE_SIZE)
    assert batch.index.tolist() == FRAMES
    assert batch.image.shape == batch.background.shape == (5, 3, *size)
    assert batch.image.dtype == torch.float32 and batch.image.min() >= 0 and 0.5 < batch.image.max() <= 1
    assert batch.labels.shape == (5, *size) and batch.labels.dtype == torch.uint8
    assert set(batch.labels.unique().tolist()) == {int(label) for label in Label}
    assert batch.condition.audio.shape == (5, 8, 74, 16)
    assert batch.condition.expression.shape == (5, len(EXPRESSION_UNITS))
    assert batch.condition.camera.world_to_camera.shape == (5, 4, 4)
    assert batch.lip_rectangle.shape == (5, 4) and batch.prior is None


def test_field_folder_gives_the_same_subject(dataset, made_field_subject):
    with SubjectDataset.open(made_field_subject) as field:
        ours, theirs = dataset.batch(FRAMES), field.batch(FRAMES)
        assert psnr(ours.image, theirs.image) > 38
        assert psnr(ours.background, theirs.background) > 38
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.lip_rectangle, theirs.lip_rectangle)
        for name in ("world_to_camera", "focal"):
            ours_value, their_value = (getattr(b.condition.camera, name) for b in (ours, theirs))
            torch.testing.assert_close(ours_value, their_value, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.condition.expression, theirs.condition.expression, atol=1e-4, rtol=0)
        assert torch.equal(ours.condition.audio, theirs.condition.audio)
        assert dataset.norm == field.norm != {}


def test_optional_parts_of_a_field_folder_may_be_missing(make_subject):
    root = make_subject(ours=False)
    for name in ("teeth_mask", "torso_imgs", "ori_imgs/0.jpg", "aud.wav"):
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with SubjectDataset.open(root, extractor="deepspeech") as bare:
        batch = bare.batch([2])
        assert any("torso" in note for note in bare.notes)
        background = cv2.imread(str(SubjectFolder(root).background))[..., ::-1]
        assert np.array_equal((batch.background[0] * 255).round().permute(1, 2, 0), background)
        assert batch.condition.audio.shape == (1, 8, 29, 16)


@pytest.mark.parametrize(
    ("name", "culprit"),
    [
        ("bc.jpg", "bc.jpg"),
        ("au.csv", "au.csv"),
        ("transforms_train.json", "no pose"),
        ("ori_imgs/3.lms", "3.lms"),
        ("parsing/2.png", "parsing/2.png"),
        ("gt_imgs/2.jpg", "gt_imgs/2.jpg"),
        ("aud_pm.npy", "aud_pm.npy"),
    ],
)
def test_what_the_method_needs_is_named_when_missing(make_subject, name, culprit):
    root = make_subject(ours=False)
    (root / name).unlink()
    shutil.rmtree(root / "torso_imgs")
    with pytest.raises(DataError, match=culprit):
        SubjectDataset.open(root).batch([2])


def test_teeth_win_over_the_head(make_subject):
    root = make_subject(ours=False)
    folder = SubjectFolder(root)
    before = labels_from_colors(cv2.imread(str(folder.parsing(2)))[..., ::-1])
    teeth = np.load(folder.teeth(2))
    assert (before[teeth] == Label.HEAD).all() and teeth.any()
    with SubjectDataset.open(root) as dataset:
        labels = dataset.batch([2]).labels[0].numpy()
    assert np.array_equal(labels == Label.MOUTH, (before == Label.MOUTH) | teeth)


def test_label_colours_survive_and_odd_ones_go_to_the_nearest():
    parsing = LABEL_COLORS[None].copy()  # [1, 6, 3]
    assert labels_from_colors(parsing)[0].tolist() == list(range(6))
    parsing[0, 1] = (8, 3, 250)
    parsing[0, 5] = (96, 104, 99)
    assert labels_from_colors(parsing)[0].tolist() == list(range(6))


def test_plate_is_the_truncated_composite():
    layer = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [255, 255, 255, 128]]], np.uint8)
    below = np.full((1, 3, 3), 10, np.uint8)
    over = lay_over(layer, below, "test")
    exact = layer[..., :3] * (layer[..., 3:] / 255) + below * (1 - layer[..., 3:] / 255)
    assert np.array_equal(over, np.floor(exact + 1e-9).astype(np.uint8))


def test_background_of_a_filmed_frame_is_the_plate(dataset):
    picture = dataset.picture(20)
    outside = picture.labels == Label.BACKGROUND
    assert outside.any() and np.array_equal(picture.image[outside], picture.plate[outside])


def test_smaller_size_scales_everything(dataset, made_subject):
    with SubjectDataset.open(made_subject, size=32) as half:
        full, small = dataset.batch(FRAMES), half.batch(FRAMES)
        assert small.image.shape[-2:] == (32, 32)
        means = torch.nn.functional.avg_pool2d(full.image, 2)
        torch.testing.assert_close(small.image, means, atol=1 / 255, rtol=0)
        assert torch.isin(small.labels, full.labels).all()
        torch.testing.assert_close(small.condition.camera.focal * 2, full.condition.camera.focal)
        assert small.condition.camera.width == small.condition.camera.height == 32
        np.testing.assert_allclose(half.landmarks * 2, dataset.landmarks)
        assert ((small.lip_rectangle * 2 - full.lip_rectangle).abs() <= 3).all()
        assert np.array_equal(half.statistics.mouth_pixels, dataset.statistics.mouth_pixels)
        u_full = full.condition.camera.focal / MADE_SIZE
        torch.testing.assert_close(small.condition.camera.focal / 32, u_full)


def test_label_maps_of_uploaded_frames_are_counted_then(made_subject):
    with SubjectDataset.open(made_subject) as fresh, SubjectDataset.open(made_subject, size=32) as dataset:
        dataset.to_device("cpu", FRAMES)
        dataset.source.labels = None  # any use would fail
        counted = dataset.statistics_of([*FRAMES, FRAMES[0]]).mouth_pixels
        assert np.array_equal(counted, fresh.statistics_of([*FRAMES, FRAMES[0]]).mouth_pixels) and counted.any()


@pytest.mark.parametrize("size", [0, 8, MADE_SIZE + 1])
def test_size_outside_the_stored_one_is_an_error(made_subject, size):
    with pytest.raises(DataError, match="size"):
        SubjectDataset.open(made_subject, size=size)


def test_condition_touches_no_picture(make_subject):
    root = make_subject()
    whole = SubjectDataset.open(root)
    expected = whole.batch([1, 5]).condition
    whole.source.image = whole.source.labels = whole.source.plate = None  # any use would fail
    condition = whole.condition([1, 5])
    assert torch.equal(condition.audio, expected.audio) and torch.equal(condition.expression, expected.expression)
    assert torch.equal(condition.camera.world_to_camera, expected.camera.world_to_camera)


def test_no_extractor_no_features(made_subject):
    with SubjectDataset.open(made_subject, extractor=None) as silent:
        assert silent.features is None and silent.batch([0]).condition.audio.numel() == 0


def test_features_much_shorter_than_the_clip_are_an_error(make_subject):
    root = make_subject(frames=40)
    features = np.load(root / "aud_pm.npy")
    np.save(root / "aud_pm.npy", features[:38])
    with SubjectDataset.open(root) as dataset:
        assert any("2 frames early" in note for note in dataset.notes)
        assert dataset.batch([39]).condition.audio[0, 4].abs().max() == 0
    np.save(root / "aud_pm.npy", features[:10])
    with pytest.raises(DataError, match="10 of 40"):
        SubjectDataset.open(root)


def test_expression_clips_the_blink_and_statistics_follow_the_drawing(dataset, made):
    assert dataset.expression[:, EXPRESSION_UNITS.index("AU45")].max() == 2.0
    assert dataset.action_units[:, dataset.action_unit_names.index("AU45")].max() == 3.0
    statistics = dataset.statistics
    assert statistics.size == MADE_SIZE and len(statistics) == MADE_FRAMES
    for values in (statistics.inner_lip_height, statistics.jaw, statistics.mouth_pixels):
        assert np.corrcoef(values, made.opening)[0, 1] > 0.95
    some = dataset.statistics_of([4, 30])
    assert some.mouth_pixels.tolist() == [statistics.mouth_pixels[4], statistics.mouth_pixels[30]]


def test_lip_rectangle_follows_the_rule_by_hand():
    landmarks = np.zeros((2, 68, 2), np.float32)
    landmarks[:, 48:60] = (20.9, 30.2)
    landmarks[0, 48], landmarks[0, 54] = (10.9, 30.2), (33.9, 30.2)  # x 10..33, y 30..30
    landmarks[0, 51], landmarks[0, 57] = (20.0, 25.9), (20.0, 34.5)  # y 25..34
    landmarks[1, 48], landmarks[1, 54] = (1.5, 2.5), (21.5, 2.5)  # half side 10, centre (11, 16): clipped at the left
    landmarks[:, 60:68, 1] = 30.9
    landmarks[:, 66, 1] = 36.1
    rectangles = lip_rectangles(landmarks, 64)
    assert rectangles[0].tolist() == [29 - 11, 29 + 11, 21 - 11, 21 + 11]
    assert rectangles[1].tolist() == [2, 30, 0, 25]
    assert inner_lip_heights(landmarks).tolist() == [6, 6]


def test_lip_rectangle_is_square_away_from_the_border_and_holds_the_mouth(dataset):
    batch = dataset.batch(range(MADE_FRAMES))
    top, bottom, left, right = batch.lip_rectangle.T
    assert torch.equal(bottom - top, right - left)
    mouth = batch.mask(Label.MOUTH)
    assert (mouth & batch.lip_mask()).sum() > 0.95 * mouth.sum()


# --- cache and device ---------------------------------------------------------------------------------------------
def test_any_order_of_reading_gives_the_same_frames(made_subject):
    order = np.random.default_rng(3).permutation(MADE_FRAMES)
    with SubjectDataset.open(made_subject) as one, SubjectDataset.open(made_subject, cache_bytes=1) as other:
        forward = {i: one.picture(i).image for i in range(MADE_FRAMES)}
        assert all(np.array_equal(other.picture(int(i)).image, forward[int(i)]) for i in order)


def test_reading_backwards_decodes_each_group_once(made_subject):
    video = VideoFrames(SubjectFolder(made_subject).frames, MADE_FRAMES)
    forward = [video.read(i) for i in range(MADE_FRAMES)]
    decode, decoded = video._decode, []
    video._decode = lambda i: decoded.append(i) or decode(i)
    backward = [video.read(i) for i in reversed(range(MADE_FRAMES))]
    assert len(decoded) == MADE_FRAMES
    assert all(np.array_equal(a, b) for a, b in zip(forward, reversed(backward), strict=True))


def test_cache_stays_within_its_bytes(made_subject):
    frame = MADE_SIZE**2 * 7
    with SubjectDataset.open(made_subject, cache_bytes=10 * frame) as dataset:
        for i in range(MADE_FRAMES):
            dataset.picture(i)
            assert dataset.store.cached_bytes <= 10 * frame


def test_neighbours_come_with_the_group_of_pictures(made_subject):
    with SubjectDataset.open(made_subject) as dataset:
        dataset.picture(30)
        dataset.source.image = None  # a second decode would fail
        assert dataset.picture(49).image.shape == (MADE_SIZE, MADE_SIZE, 3)
        with pytest.raises(TypeError):
            dataset.picture(50)


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_resident_frames_give_the_same_batches(dataset, device):
    resident = dataset.to_device(device, range(10, 40))
    indices = [12, 39, 12, 10]
    here, there = resident.batch(indices).to("cpu"), dataset.batch(indices)
    for name in ("index", "image", "background", "labels", "lip_rectangle"):
        assert torch.equal(getattr(here, name), getattr(there, name)), name
    assert torch.equal(here.condition.audio, there.condition.audio)
    assert torch.equal(here.condition.expression, there.condition.expression)
    assert torch.equal(here.condition.camera.world_to_camera, there.condition.camera.world_to_camera)
    assert len(resident) == 30 and resident.image.dtype == torch.uint8
    with pytest.raises(IndexError, match="frame 5"):
        resident.batch([12, 5])


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
@pytest.mark.parametrize("stay", [0, 14])
def test_streamed_frames_give_the_same_batches(dataset, tmp_path, device, stay):
    everything = dataset.to_device(device, range(5, 60))
    streamed = dataset.to_device(device, range(5, 60), (stay + RING) * 13 * MADE_SIZE**2, tmp_path)
    assert len(streamed) == stay and len(streamed.image) == stay + RING
    assert not list(tmp_path.iterdir())  # the scratch file has no name
    draw = np.random.default_rng(0)
    for step in range(60):
        frames = draw.integers(5, 60, 3).tolist()
        streamed.prepare(frames, prior=step % 2 == 1)
        here, there = (each.batch(frames, prior=step % 2 == 1) for each in (streamed, everything))
        for name in ("index", "image", "background", "labels", "lip_rectangle"):
            assert torch.equal(getattr(here, name), getattr(there, name)), name
        if here.prior is not None:
            for name in ("depth", "normal", "valid"):
                assert torch.equal(getattr(here.prior, name), getattr(there.prior, name)), name
    with pytest.raises(DataError, match="frames_per_step"):
        streamed.prepare(range(25, 25 + RING + 1))


def test_a_scratch_folder_without_room_is_named(tmp_path):
    with pytest.raises(DataError, match="need .* MiB there"):
        FrameFile(tmp_path, 10**9, 512)


def test_plates_are_decoded_beside_the_images(made_subject, monkeypatch):
    together = threading.Barrier(2, timeout=5)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    with SubjectDataset.open(made_subject) as dataset:
        for name in ("image", "plate"):
            plain = getattr(FolderSource, name)
            monkeypatch.setattr(FolderSource, name, lambda self, i, plain=plain: (together.wait(), plain(self, i))[1])
        assert sum(len(chunk) for _, chunk in dataset.store.stream(range(6), 4)) == 6


@pytest.mark.parametrize("form", ["pack", "folder"])
def test_several_readers_stream_every_frame_once(made_subject, tmp_path, monkeypatch, form):
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    path = made_subject if form == "folder" else write_pack(SubjectFolder(made_subject), tmp_path / "it.instag")
    indices = [*range(2, 58), 7]
    with SubjectDataset.open(path) as opened:
        found = {s + j: p for s, chunk in opened.store.stream(indices, 4) for j, p in enumerate(chunk)}
        assert sorted(found) == list(range(len(indices)))
        for place, i in enumerate(indices):
            assert all(np.array_equal(a, b) for a, b in zip(found[place], opened.picture(i), strict=True))


def test_no_group_of_pictures_is_decoded_by_two_readers(made_subject, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    decoded = []
    decode = VideoFrames._decode
    with SubjectDataset.open(made_subject) as opened:
        monkeypatch.setattr(
            VideoFrames, "_decode", lambda video, i: decoded.append((video.path, i)) or decode(video, i)
        )
        assert list(opened.store.stream([], 4)) == []
        for _ in opened.store.stream(range(MADE_FRAMES), 4):
            pass
    assert len(set(decoded)) == len(decoded) == 2 * MADE_FRAMES  # pictures and plates


@pytest.mark.parametrize("indices", [[-1], [MADE_FRAMES]])
def test_frames_outside_the_clip_are_an_error(dataset, indices):
    with pytest.raises(IndexError):
        dataset.batch(indices)


# --- priors -------------------------------------------------------------------------------------------------------
def test_network_prior_is_read_and_resized(make_subject):
    root = make_subject(frames=4, size=32)
    for kind in ("depth", "normal"):
        (root / "sapiens" / kind / f"sapiens_1b_{kind}").mkdir(parents=True)
    depth = np.full((32, 32), 3.0, np.float32)
    depth[:, :8] = np.nan
    normal = np.zeros((32, 32, 3), np.float32)
    normal[..., 2] = 2.0
    np.save(root / "sapiens/depth/sapiens_1b_depth/2.npy", depth)
    np.save(root / "sapiens/normal/sapiens_1b_normal/2.npy", normal)
    with SubjectDataset.open(root, size=16) as dataset:
        prior = dataset.batch([2], prior=True).prior
    assert prior.depth.shape == (1, 1, 16, 16) and prior.normal.shape == (1, 3, 16, 16)
    assert prior.valid.dtype == torch.bool and not prior.valid[..., :4].any() and prior.valid[..., 4:].all()
    assert torch.allclose(prior.depth[prior.valid], torch.tensor(3.0))
    assert torch.allclose(prior.normal[0, 2][prior.valid[0, 0]], torch.tensor(1.0))


def test_mesh_prior_is_the_ellipsoid_that_the_mesh_lies_on(dataset, made):
    prior = dataset.batch([0, 10], prior=True).prior
    assert prior.depth.shape == (2, 1, MADE_SIZE, MADE_SIZE) and prior.valid.float().mean() > 0.1
    depth = prior.depth[prior.valid]
    assert made.distance - made.mesh_radii[2] - 1e-3 < depth.min() < made.distance - 0.95 * made.mesh_radii[2]
    assert depth.max() < made.distance
    for frame in range(2):
        valid = prior.valid[frame, 0]
        normal = prior.normal[frame, :, valid]  # [3, n]
        torch.testing.assert_close(normal.norm(dim=0), torch.ones(normal.shape[1]))
        assert (normal[2] > 0).all()  # to the viewer
        rows, columns = valid.nonzero(as_tuple=True)
        upper, right = rows < rows.float().mean() - 5, columns > columns.float().mean() + 5
        assert normal[1, upper].mean() > 0.2 and normal[0, right].mean() > 0.2  # y up, x right


def test_plates_travel_as_a_video(dataset, made_field_subject, tmp_path):
    with SubjectDataset.open(made_field_subject) as field:
        for one in (dataset, field):
            path = tmp_path / f"{one.source.run}.mp4"
            path.write_bytes(one.source.plates_video())
            assert psnr(VideoFrames(path, MADE_FRAMES).read(31) / 255, dataset.picture(31).plate / 255) > 38


def test_subject_without_any_prior_says_so(made_field_subject):
    with SubjectDataset.open(made_field_subject) as dataset, pytest.raises(DataError, match="geometry prior"):
        dataset.batch([0], prior=True)
