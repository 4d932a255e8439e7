"""Folders as the scripts of other programs leave them load as they are: the reference, TalkingGaussian, ER-NeRF.

Made here file by file after the published layouts (METHOD.md section 7, docs/data.md); no file of those programs is used.
"""

import json
import shutil
import time

import cv2
import numpy as np
import pytest

from instag.api import adapt_subject
from instag.data.dataset import SubjectDataset
from instag.data.layout import LABEL_COLORS, Label, SubjectFolder
from instag.data.pack import write_pack
from instag.errors import DataError

FRAMES, SIZE = 22, 64  # 22: 20 frames to train on and 2 to test
OPENFACE = ["frame", " face_id", " timestamp", " confidence", " success"]
UNITS = ["01", "02", "04", "05", "06", "07", "09", "10", "12", "14", "15", "17", "20", "23", "25", "26", "45"]


def colours(path):
    return cv2.imread(str(path))[..., ::-1]


def openface_csv(path, frames):
    """All columns of OpenFace: intensities `_r` and presences `_c`, each name but the first after a blank."""
    header = [*OPENFACE, *(f" AU{unit}_r" for unit in UNITS), *(f" AU{unit}_c" for unit in (*UNITS, "28"))]
    rows = [[i + 1, 0, 0.04 * i, 0.98, 1, *(0.1 * k + 0.01 * i for k in range(17)), *([1] * 18)] for i in range(frames)]
    path.write_text("\n".join([",".join(header), *(", ".join(f"{v:g}" for v in row) for row in rows)]) + "\n")


def common(root):
    """What all of them leave: video, tracker's state, sound, DeepSpeech's features, OpenFace's table."""
    (root / f"{root.name}.mp4").write_bytes(b"the video that it was made from")
    (root / "track_params.pt").write_bytes(b"the tracker's own state, which nobody reads here")
    for name in ("aud_pm.npy", "aud_pm.norm.json"):
        (root / name).unlink()
    openface_csv(root / "au.csv", FRAMES)


def reference(root):
    """The reference: mouth and hair in the parsing, teeth of a network, depth and normals."""
    common(root)
    for kind, shape in (("depth", (32, 32)), ("normal", (32, 32, 3))):
        folder = root / "sapiens" / kind / "sapiens_0.3b"
        folder.mkdir(parents=True)
        for i in range(FRAMES):
            np.save(folder / f"{i}.npy", np.full(shape, 0.577, np.float16 if kind == "depth" else np.float32))


def talking_gaussian(root):
    """TalkingGaussian: the same without depth and normals; DeepSpeech's features as aud_ds.npy."""
    common(root)
    (root / "aud.npy").rename(root / "aud_ds.npy")


def er_nerf(root):
    """ER-NeRF and AD-NeRF: head, neck, torso and background alone in the parsing; no teeth."""
    common(root)
    shutil.rmtree(root / "teeth_mask")
    head = LABEL_COLORS[Label.HEAD]
    for i in range(FRAMES):
        path = SubjectFolder(root).parsing(i)
        parsing = colours(path).copy()
        for label in (Label.HAIR, Label.MOUTH):
            parsing[(parsing == LABEL_COLORS[label]).all(-1)] = head
        cv2.imwrite(str(path), parsing[..., ::-1])


@pytest.fixture(params=[reference, talking_gaussian, er_nerf], ids=lambda layout: layout.__name__)
def layout(request):
    return request.param


@pytest.fixture
def root(layout, make_subject):
    folder = make_subject(FRAMES, ours=False, size=SIZE)
    layout(folder)
    return folder


def test_it_loads_as_it_is(layout, root):
    with SubjectDataset.open(root, extractor="deepspeech") as dataset:
        batch = dataset.batch([0, FRAMES - 1])
        assert len(dataset) == FRAMES and batch.image.shape == (2, 3, SIZE, SIZE)
        assert batch.condition.audio.shape == (2, 8, 29, 16)
        lids = dataset.tracks.action_units[:, dataset.tracks.action_unit_names.index("AU05")]
        np.testing.assert_allclose(lids, 0.3 + 0.01 * np.arange(FRAMES), atol=1e-6)
        found = set(np.unique(batch.labels))
        mouth = {Label.HAIR, Label.MOUTH} & found
        assert mouth == (set() if layout is er_nerf else {Label.HAIR, Label.MOUTH})
        assert {Label.BACKGROUND, Label.HEAD, Label.NECK, Label.TORSO} <= found
        assert any("mouth" in note for note in dataset.notes) == (layout is er_nerf)
        if layout is reference:
            assert dataset.batch([1], prior=True).prior.valid.all()
        else:
            with pytest.raises(DataError, match="prior_from=null"):
                dataset.batch([1], prior=True)


def test_frames_may_stand_in_one_pose_file_and_parts_be_missing(layout, root):
    folder = SubjectFolder(root)
    train, val = (json.loads(folder.transforms(split).read_text()) for split in ("train", "val"))
    folder.transforms("train").write_text(json.dumps(train | {"frames": val["frames"] + train["frames"]}))
    folder.transforms("val").unlink()
    for name in ("teeth_mask", "torso_imgs", "sapiens", "aud.wav", f"{root.name}.mp4", "track_params.pt"):
        path = root / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    for i in range(FRAMES):
        folder.image(i).unlink()
    with SubjectDataset.open(root, extractor="deepspeech") as dataset:
        dataset.batch([1])
        assert any("torso" in note for note in dataset.notes)


def test_it_packs(root, tmp_path):
    with SubjectDataset.open(write_pack(SubjectFolder(root), tmp_path / "p.instag"), extractor="deepspeech") as packed:
        assert len(packed) == FRAMES and packed.batch([3]).image.shape == (1, 3, SIZE, SIZE)


def test_arrays_are_read_one_at_a_time(root, tmp_path, monkeypatch):
    inside, most, load = [], [], np.load

    def watched(*arguments, **options):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.002)
        inside.pop()
        return load(*arguments, **options)

    monkeypatch.setattr(np, "load", watched)
    write_pack(SubjectFolder(root), tmp_path / "p.instag")
    assert max(most, default=1) == 1  # one layout has no teeth


def test_it_trains(root, tmp_path):
    steps = [f"training.{stage}.iterations=3" for stage in ("face", "mouth", "fuse")]
    small = ["training.face.points=200", "training.mouth.points=100", "training.face.prior_from=null"]
    settings = [*steps, *small, "training.face.warmup=1", "training.mouth.warmup=1", "model.extractor=deepspeech"]
    adapt_subject(root, tmp_path / "run", "adapt", settings, "cpu", progress=False)
    assert (tmp_path / "run" / "avatar.safetensors").is_file()
