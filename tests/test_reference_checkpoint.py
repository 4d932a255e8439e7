"""Checkpoints of the reference program: what they become, what is refused, and the frame that one of them draws."""

import lzma
import tarfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from instag.api import import_reference
from instag.avatar import Avatar
from instag.camera import Camera
from instag.cli import main
from instag.data.frame import Condition
from instag.errors import InstagError
from instag.head import DEFAULT_MODE, REFERENCE_MODE
from instag.reference_checkpoint import read_head, read_universal
from instag.universal import Universal

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"
FACE_GRID, MOUTH_GRID = 9464, 46600
MOTION_TOLERANCE = 1e-4  # relative L2
PIXEL_TOLERANCE = 1 / 255

needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"no parity fixtures at {FIXTURES}")


# --- made files -----------------------------------------------------------------------------------------------------
def audio_shapes(width, prefix="audio_net"):
    if width == 512:
        linear, shapes = ((0, 512, 256), (2, 256, 128), (4, 128, 32)), {}
    else:
        channels, linear = [width, 32, 32, 64, 64], ((0, 64, 64), (2, 64, 32))
        if width >= 128:
            channels[1:3] = [128, 128]
        shapes = {f"encoder_conv.{2 * i}.weight": (channels[i + 1], channels[i], 3) for i in range(4)}
        shapes |= {f"encoder_conv.{2 * i}.bias": (channels[i + 1],) for i in range(4)}
    for index, inputs, outputs in linear:
        shapes |= {f"encoder_fc1.{index}.weight": (outputs, inputs), f"encoder_fc1.{index}.bias": (outputs,)}
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def network(name, *sizes):
    return {f"{name}.net.{i}.weight": (b, a) for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False))}


def motion_shapes(kind, width):
    channels = (32, 16, 8, 4, 2, 1)
    shapes = audio_shapes(width)
    for i in range(5):
        shapes[f"audio_att_net.attentionConvNet.{2 * i}.weight"] = (channels[i + 1], channels[i], 3)
        shapes[f"audio_att_net.attentionConvNet.{2 * i}.bias"] = (channels[i + 1],)
    shapes |= {"audio_att_net.attentionNet.0.weight": (8, 8), "audio_att_net.attentionNet.0.bias": (8,)}
    grid = MOUTH_GRID if kind == "mouth" else FACE_GRID
    shapes |= {f"encoder_{plane}.embeddings": (grid, 1) for plane in ("xy", "yz", "xz")}
    shapes |= network("aud_ch_att_net", 36, 32, 32)
    if "face" in kind:
        shapes |= network("exp_encode_net", 5, 16, 5) | network("eye_att_net", 36, 16, 6)
    decoder = {
        "face": (74, 64, 64, 11),
        "mouth": (71, 32, 32, 7),
        "personal_face": (74, 32, 32, 11),
        "personal_mouth": (68, 16, 16, 7),
    }
    shapes |= network("sigma_net", *decoder[kind])
    if kind == "mouth":
        shapes |= network("scaler_net", 39, 16, 16, 1)
    if "personal" in kind:
        shapes |= network("align_net", 36, 32 if "face" in kind else 16, 6)
    return shapes


def motion(kind, width=29):
    generator = torch.Generator().manual_seed(len(kind) + width)
    state = {
        name: 0.15 * torch.randn(shape, generator=generator)
        for name, shape in sorted(motion_shapes(kind, width).items())
    }
    return OrderedDict(state)


def without(state, name):
    return OrderedDict((key, value) for key, value in state.items() if key != name)


def gaussians(part, count, width=29, degree=1):
    generator = torch.Generator().manual_seed(count)
    means = 0.05 * torch.randn(count, 3, generator=generator)
    rest = torch.zeros(count, (degree + 1) ** 2 - 1, 3)
    unused = torch.zeros(count, 1)
    turned = torch.tensor([1.0, 0, 0, 0]).repeat(count, 1)
    drawn = (means, torch.rand(count, 1, 3, generator=generator), rest, unused, torch.full((count, 3), -4.0))
    spent = (turned, unused + 1, unused[:, 0], unused, unused, {"state": {}, "param_groups": []}, 1.0, {})
    return (degree, *drawn, *spent, motion(f"personal_{part}", width))


@pytest.fixture
def field_files(tmp_path):
    """Face and mouth checkpoints of pre-training, for features of a width."""

    def write(width=29):
        paths = [tmp_path / f"chkpnt_ema_{part}_latest.pth" for part in ("face", "mouth")]
        for path, part in zip(paths, ("face", "mouth"), strict=True):
            torch.save((motion(part, width), {"state": {}, "param_groups": []}, 150_000), path)
        return paths

    return write


@pytest.fixture
def head_file(tmp_path):
    """A whole head, whose parts a test may replace."""

    def write(change=lambda content: content):
        content = [gaussians("face", 40), motion("face"), gaussians("mouth", 20), motion("mouth")]
        path = tmp_path / "chkpnt_fuse_latest.pth"
        torch.save(tuple(change(content)), path)
        return path

    return write


# --- universal fields -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("width", "extractor"), [(29, "deepspeech"), (44, "esperanto"), (1024, "hubert"), (512, "ave")]
)
def test_shapes_tell_the_audio_features(field_files, tmp_path, width, extractor, capsys):
    face, mouth = field_files(width)
    main(["import-reference", str(mouth), str(face), str(tmp_path / "universal.safetensors")])
    fields = Universal.load(tmp_path / "universal.safetensors")
    assert (fields.extractor, fields.hash_ranges, fields.norm) == (extractor, "reference", None)
    assert fields.provenance["iterations"] == {"face": 150_000, "mouth": 150_000}
    theirs = motion("face", width)
    assert torch.equal(fields.face["decoder.layers.2.weight"], theirs["sigma_net.net.2.weight"])
    assert torch.equal(fields.face["encoding.table"][1], theirs["encoder_yz.embeddings"][:, 0])


def test_fields_that_do_not_belong_together(field_files, head_file, tmp_path):
    face, mouth = field_files()
    other = tmp_path / "other.pth"
    torch.save((motion("mouth", 44), {}, 1), other)
    refusals = {
        (face,): "the checkpoint of the mouth is missing",
        (face, face): "as .* does",
        (): "the checkpoint of the face is missing",
        (face, other): "differ in audio features",
        (face, head_file()): "holds a whole head",
        (face, tmp_path / "none.pth"): "does not exist",
    }
    for paths, reason in refusals.items():
        with pytest.raises(InstagError, match=reason) as error:
            read_universal(paths)
        assert "\n" not in str(error.value)
    with pytest.raises(InstagError, match="listens to deepspeech features, not hubert"):
        read_universal([face, mouth], "hubert")
    with pytest.raises(InstagError, match="leave them out"):
        import_reference([face, mouth], tmp_path / "u.safetensors", as_reference=True)


class Evil:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_executed(tmp_path):
    trace = tmp_path / "executed"
    torch.save((Evil(trace), {}, 1), tmp_path / "evil.pth")
    (tmp_path / "broken.pth").write_bytes(b"PK\x03\x04 and no more")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pth")
    for name, reason in (("evil", "read safely"), ("broken", "read safely"), ("other", "no checkpoint")):
        with pytest.raises(InstagError, match=reason) as error:
            read_universal([tmp_path / f"{name}.pth"])
        assert "\n" not in str(error.value)
    assert not trace.exists()


# --- an avatar ------------------------------------------------------------------------------------------------------
def test_an_avatar_needs_its_subject_and_remembers_how_it_is_drawn(head_file, make_subject, tmp_path, capsys):
    subject, checkpoint = make_subject(30), head_file()
    with pytest.raises(InstagError, match="give --subject"):
        import_reference([checkpoint], tmp_path / "run")
    ours = Avatar.load(import_reference([checkpoint], tmp_path / "ours.safetensors", subject, n_views=10))
    main(["import-reference", str(checkpoint), str(tmp_path / "run"), "--subject", str(subject), "--as_reference"])
    theirs = Avatar.load(tmp_path / "run" / "avatar.safetensors")
    assert (ours.mode, theirs.mode) == (DEFAULT_MODE, REFERENCE_MODE)
    assert ours.model.extractor == "deepspeech" and len(ours) == 30 and len(ours.split.train) == 10
    assert torch.equal(ours.head.face.structure.scales_raw, torch.full((40, 3), -4.0))
    features = torch.randn(30, 16, 29, generator=torch.Generator().manual_seed(0))
    pictures = [
        avatar.render(avatar.condition([9], features, [9], 2 + avatar.expression[[9]]), avatar.plates([9]))
        for avatar in (ours, theirs)
    ]
    assert pictures[0].shape == (1, 3, 64, 64) and not torch.equal(*pictures)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: [*c[:3], motion("face")], "tri-planes of 9464"),
        (lambda c: [c[0], without(c[1], "sigma_net.net.1.weight"), *c[2:]], "latest.pth is not .* is missing"),
        (lambda c: [c[0][:14], *c[1:]], "no tuple of 15"),
        (lambda c: [(*c[0][:1], None, *c[0][2:]), *c[1:]], "not tensors"),
        (lambda c: [(*c[0][:7], torch.zeros(3, 1), *c[0][8:]), *c[1:]], "does not fit"),
        (lambda c: [(3, *c[0][1:]), *c[1:]], "degree 3"),
        (lambda c: [c[0], OrderedDict(c[1], extra=torch.zeros(1)), *c[2:]], "'extra' is unknown"),
        (lambda c: [c[0], 7, *c[2:]], "something else"),
        (lambda c: [c[0], motion("face", 44), *c[2:]], "differ in audio features"),
        (
            lambda c: [c[0], OrderedDict(c[1], **{"encoder_xy.embeddings": torch.zeros(8, 1)}), *c[2:]],
            "tri-planes of 8",
        ),
    ],
)
def test_heads_that_are_none(head_file, change, reason):
    with pytest.raises(InstagError, match=reason) as error:
        read_head(head_file(change))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


# --- the recorded frame ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def recorded():
    path = FIXTURES / "fused_frame.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with np.load(path) as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays}


@pytest.fixture(scope="module")
def recorded_head(tmp_path_factory):
    archive = FIXTURES / "reference_checkpoints.tar.xz"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    folder = tmp_path_factory.mktemp("reference")
    with lzma.open(archive) as stream, tarfile.open(fileobj=stream) as files:
        files.extractall(folder, filter="data")
    return read_head(folder / "chkpnt_fuse_latest.pth")[0]


def drawn(head, recorded, mode):
    size = int(recorded["width"]), int(recorded["height"])
    camera = Camera(recorded["world_to_camera"].float()[None], recorded["focal"].float()[None], *size)
    with torch.no_grad():
        return head(Condition(camera, recorded["audio"][None], recorded["expression"][None]), mode)


@needs_fixtures
def test_the_recorded_frame_is_reproduced_part_by_part(recorded, recorded_head):
    render = drawn(recorded_head, recorded, REFERENCE_MODE)
    for branch, name in ((render.face, "face_d_mu"), (render.mouth, "mouth_d_mu")):
        ours, theirs = branch.motion.total.d_mean[0], recorded[name]
        assert (ours - theirs).norm() <= MOTION_TOLERANCE * theirs.norm()
    parts = {
        "face_rgb": render.face.image.color,
        "face_alpha": render.face.image.alpha,
        "mouth_rgb": render.mouth.image.color,
        "mouth_alpha": render.mouth.image.alpha,
        "composite": render.over(recorded["background"][None]),
    }
    for name, image in parts.items():
        assert (image[0] - recorded[name]).abs().max() <= PIXEL_TOLERANCE, name


@needs_fixtures
def test_our_own_hook_draws_another_mouth(recorded, recorded_head):
    """What docs/data.md says of an import without --as-reference."""
    render = drawn(recorded_head, recorded, replace(REFERENCE_MODE, hook_expression="neutral"))
    difference = (render.mouth.image.color[0] - recorded["mouth_rgb"]).abs().max()
    assert PIXEL_TOLERANCE < difference < 5 * PIXEL_TOLERANCE
