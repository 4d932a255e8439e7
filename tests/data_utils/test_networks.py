"""Networks by file: real ones, made here, in TorchScript and in ONNX (written by hand in the protobuf wire format)."""

import json
import pickle

import numpy as np
import pytest
import torch
from made_speaker import HAIR, SHIRT, SKIN, make_speaker

from instag.data.layout import Label
from instag.data_utils import networks
from instag.data_utils.networks import (
    CELEBAMASK,
    EASYPORTRAIT,
    LabelTable,
    NetworkParser,
    geometry_of,
    load_network,
    read_table,
)
from instag.errors import DataError, InstagError

SKIN_CLASS, NECK_CLASS, CLOTH_CLASS, HAIR_CLASS = 1, 14, 16, 17
CELEBA_COLOURS = {SKIN_CLASS: SKIN, HAIR_CLASS: HAIR, CLOTH_CLASS: SHIRT}


class Own:
    """Stands for our parser: torso everywhere."""

    def label(self, frame, *rest):
        return np.full(frame.shape[:2], Label.TORSO, np.uint8)


def nearest_colour(classes, colours, mean=networks.IMAGENET_MEAN, std=networks.IMAGENET_STD):
    """A 1x1 convolution whose strongest channel is that of the nearest colour: weight [C, 3], bias [C]."""
    weight, bias = np.zeros((classes, 3), np.float32), np.full(classes, -1e4, np.float32)
    for k, colour in colours.items():
        colour = (np.array(colour, np.float32) - mean) / std
        weight[k], bias[k] = 2 * colour, -(colour**2).sum()
    return weight, bias


class Convolution(torch.nn.Module):
    def __init__(self, weight, bias, wrap=None):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, len(weight), 1)
        self.layer.weight.data = torch.from_numpy(weight)[..., None, None]
        self.layer.bias.data = torch.from_numpy(bias)
        self.wrap = wrap

    def forward(self, x):
        y = self.layer(x)
        return (y, y * 0) if self.wrap == "tuple" else y


def save_torchscript(path, weight, bias, wrap=None):
    torch.jit.trace(Convolution(weight, bias, wrap), torch.zeros(1, 3, 8, 8), check_trace=False).save(str(path))
    return path


def varint(n):
    out = b""
    while n > 0x7F:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def field(number, value):
    """One protobuf field: an int as varint, bytes or text with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def save_onnx(path, weight, bias, size):
    """ONNX: y = Conv(x), kernel 1x1; onnx.proto field numbers."""

    def tensor(name, array):
        dims = b"".join(field(1, n) for n in array.shape)
        return field(5, dims + field(2, 1) + field(8, name) + field(9, array.astype("<f4").tobytes()))

    def value(name, *shape):
        dims = b"".join(field(1, field(1, n)) for n in shape)
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))

    kernel = field(1, "kernel_shape") + field(8, 1) + field(8, 1) + field(20, 7)
    node = b"".join(field(1, name) for name in "xwb") + field(2, "y") + field(4, "Conv") + field(5, kernel)
    graph = field(1, node) + field(2, "made") + tensor("w", weight[..., None, None]) + tensor("b", bias)
    graph += field(11, value("x", 1, 3, size, size)) + field(12, value("y", 1, len(weight), size, size))
    path.write_bytes(field(1, 7) + field(8, field(2, 13)) + field(7, graph))
    return path


@pytest.fixture(scope="module")
def speaker():
    return make_speaker(128, 2)


def label(path, speaker, table=None):
    return NetworkParser(path, table, Own()).label(*speaker.arguments(1))


def agreement(found, truth, *labels):
    chosen = np.isin(truth, labels)
    return (found[chosen] == truth[chosen]).mean()


@pytest.mark.parametrize("kind", ["torchscript", "tuple", "onnx"])
def test_a_celebamask_network_labels_by_the_ready_table(kind, speaker, tmp_path):
    weight, bias = nearest_colour(19, CELEBA_COLOURS)
    if kind == "onnx":
        path = save_onnx(tmp_path / "net.onnx", weight, bias, CELEBAMASK.size)
    else:
        path = save_torchscript(tmp_path / "net.pt", weight, bias, kind)
    found = label(path, speaker)
    assert found.shape == (128, 128) and found.dtype == np.uint8
    for true in (Label.HEAD, Label.HAIR, Label.TORSO):
        assert agreement(found, speaker.truth[1], true) > 0.95


def test_onnx_and_torchscript_say_the_same(tmp_path):
    weight, bias = nearest_colour(19, CELEBA_COLOURS)
    batch = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    by_onnx = load_network(save_onnx(tmp_path / "net.onnx", weight, bias, 32))(batch)
    by_torch = load_network(save_torchscript(tmp_path / "net.pt", weight, bias))(batch)
    np.testing.assert_allclose(by_onnx, by_torch, rtol=1e-4, atol=1e-3)


def test_what_easyportrait_cannot_tell_is_left_to_our_parser(speaker, tmp_path):
    weight, bias = nearest_colour(9, {1: SHIRT, 2: SKIN, 0: HAIR})
    found = label(save_torchscript(tmp_path / "net.pt", weight, bias), speaker)
    assert agreement(found, speaker.truth[1], Label.HEAD) > 0.95
    assert (found[speaker.truth[1] == Label.HAIR] == Label.TORSO).mean() > 0.95  # what `Own` says


def test_a_table_beside_the_file_is_used_with_its_size_and_constants(speaker, tmp_path):
    weight, bias = nearest_colour(3, {0: HAIR, 1: SKIN, 2: SHIRT}, mean=(0, 0, 0), std=(255, 255, 255))
    path = save_onnx(tmp_path / "net.onnx", weight, bias, 64)
    content = {"labels": ["hair", "head", "torso"], "size": 64, "mean": [0, 0, 0], "std": [255, 255, 255]}
    (tmp_path / "net.labels.json").write_text(json.dumps(content))
    table = read_table(path)
    assert table == LabelTable((2, 1, 4), 64, (0, 0, 0), (255, 255, 255))
    assert agreement(label(path, speaker, table), speaker.truth[1], Label.HEAD, Label.HAIR, Label.TORSO) > 0.9


def test_ready_tables_have_the_classes_of_their_data_sets():
    assert len(CELEBAMASK.labels) == 19 and len(EASYPORTRAIT.labels) == 9
    assert CELEBAMASK.labels[11] == Label.MOUTH and EASYPORTRAIT.labels[8] == Label.MOUTH
    expected = {SKIN_CLASS: Label.HEAD, NECK_CLASS: Label.NECK, CLOTH_CLASS: Label.TORSO, HAIR_CLASS: Label.HAIR}
    assert all(CELEBAMASK.labels[k] == true for k, true in expected.items())


def test_the_parser_travels_to_workers(tmp_path):
    assert pickle.loads(pickle.dumps(NetworkParser(tmp_path / "n.pt", CELEBAMASK, None))).table == CELEBAMASK


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("net.pt", None, "no such network file"),
        ("net.pt", b"no zip", "not TorchScript"),
        ("net.pt", "state", "not TorchScript"),
        ("net.onnx", b"no protobuf", "cannot load it"),
    ],
)
def test_useless_files_are_named(name, content, words, tmp_path):
    path = tmp_path / name
    if content == "state":
        torch.save({"weight": torch.zeros(3)}, path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        load_network(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{}", '{"labels": ["nose"]}', "{", '{"labels": ["head"], "colour": 1}'])
def test_useless_tables_are_named(text, tmp_path):
    (tmp_path / "net.labels.json").write_text(text)
    with pytest.raises(DataError, match="net.labels.json: not a label table"):
        read_table(tmp_path / "net.pt")


def test_a_number_of_classes_without_a_table_says_what_to_write(speaker, tmp_path):
    path = save_torchscript(tmp_path / "net.pt", *nearest_colour(5, {0: SKIN}))
    with pytest.raises(DataError, match=r"5 classes, ready tables are for 9 or 19; write net.labels.json"):
        label(path, speaker)
    with pytest.raises(DataError, match="gives 5 classes, its label table has 19"):
        label(path, speaker, CELEBAMASK)


def test_depth_and_normals_are_stored_as_sapiens_does(speaker, tmp_path):
    brightness = np.full((1, 3), 0.1, np.float32), np.zeros(1, np.float32)
    tilt = np.zeros((3, 3), np.float32), np.array([0, 3, 4], np.float32)
    frame = speaker.frames[0]
    for kind, (weight, bias) in {"depth": brightness, "normal": tilt}.items():
        path = save_torchscript(tmp_path / f"{kind}.pt", weight, bias)
        found, values = geometry_of(load_network(path), path, frame)
        assert found == kind and values.dtype == np.float16 and values.shape[:2] == frame.shape[:2]
        if kind == "normal":
            np.testing.assert_allclose(values[5, 7].astype(float), (0, 0.6, 0.8), atol=1e-3)
        else:
            wanted = 0.1 * ((frame.astype(float) - networks.SAPIENS_MEAN) / networks.SAPIENS_STD).sum(-1)
            assert np.corrcoef(values.ravel().astype(float), wanted.ravel())[0, 1] > 0.99


def test_geometry_of_another_kind_is_refused(speaker, tmp_path):
    path = save_torchscript(tmp_path / "net.pt", np.zeros((2, 3), np.float32), np.zeros(2, np.float32))
    with pytest.raises(DataError, match="gives 2 channels"):
        geometry_of(load_network(path), path, speaker.frames[0])
    path = save_torchscript(tmp_path / "nan.pt", np.full((1, 3), np.nan, np.float32), np.zeros(1, np.float32))
    with pytest.raises(InstagError, match="no numbers"):
        geometry_of(load_network(path), path, speaker.frames[0])
