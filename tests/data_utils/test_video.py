"""Video in and out: the right frame at the right time, whatever the file's rate and rotation; nothing half-written."""

import struct
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from instag import media
from instag.data_utils.clip import read_grey
from instag.data_utils.video import FrameReader, iterate_frames, probe, read_all, square_crop
from instag.errors import DataError
from instag.media import BT601, LIMITED_RANGE, VideoWriter, picture_of, to_planes

SIZE = 64


def numbered(i, size=SIZE):
    """A picture that tells its number by three grey bars (base 8), with a bright mark in the upper left corner."""
    digits = np.array([i // 64, i // 8 % 8, i % 8])
    bars = np.repeat(30 * digits, -(-size // 3))[:size].astype(np.uint8)
    picture = np.repeat(np.tile(bars, (size, 1))[..., None], 3, axis=2)
    picture[: size // 4, : size // 4] = 250
    return picture


def number_of(picture):
    lower = np.median(picture[picture.shape[0] // 2 :], axis=(0, 2))
    digits = [round(lower[round((k + 0.5) * len(lower) / 3)] / 30) for k in range(3)]
    return int(np.dot(digits, [64, 8, 1]))


def write_stamped(path, times, clock=1000):
    """A video whose picture i stands at times[i] seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width = stream.height = SIZE
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, clock)
        stream.codec_context.time_base = Fraction(1, clock)
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(numbered(i), format="rgb24")
            frame.pts, frame.time_base = round(time * clock), Fraction(1, clock)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def clip(tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 25, SIZE) as writer:
        for i in range(80):
            writer.write(numbered(i))
    return writer.path


def test_writes_and_reads_back(clip):
    info = probe(clip)
    assert (info.width, info.height, info.fps, info.has_audio) == (SIZE, SIZE, 25, False)
    assert abs(info.seconds - 3.2) < 1e-6
    frames = list(iterate_frames(clip))
    assert [number_of(frame) for frame in frames] == list(range(80))
    assert max(np.abs(frame.astype(int) - numbered(i)).mean() for i, frame in enumerate(frames)) < 2


def test_colours_survive(tmp_path):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (4, 4, 3)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
    with VideoWriter(tmp_path / "colours.mp4", 25, SIZE, crf=4) as writer:
        for _ in range(60):
            writer.write(picture)
    import cv2

    seen = {"pyav": next(iter(iterate_frames(writer.path)))}
    seen["opencv"] = cv2.VideoCapture(str(writer.path)).read()[1][..., ::-1]
    for reader, frame in seen.items():
        assert np.abs(frame.astype(int) - picture).mean() < 3, reader


def test_colours_are_converted_as_swscale_does():
    """Within a level either way, at a width whose planes are padded."""
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv444p", dst_colorspace=BT601)
    ours, theirs = to_planes(rgb).astype(int), frame.to_ndarray().astype(int)
    assert np.abs(ours - theirs).max() <= 1
    frame.colorspace, frame.color_range = BT601, LIMITED_RANGE
    assert np.abs(picture_of(frame).astype(int) - frame.to_ndarray(format="rgb24")).max() <= 1
    frame.colorspace = 1  # BT.709: not ours
    np.testing.assert_array_equal(picture_of(frame), frame.to_ndarray(format="rgb24"))


def test_random_access_is_sequential_access(clip):
    frames, reader = list(read_all(clip)), FrameReader(clip)
    assert len(reader) == len(frames) == 80
    for i in (79, 0, 26, 25, 24, 51, 30, *range(80), 3, 29, 74, 75):
        np.testing.assert_array_equal(reader(i), frames[i])
    with pytest.raises(IndexError):
        reader(80)


def test_readers_side_by_side_give_the_frames_in_order(clip):
    frames, numbers = list(read_all(clip)), [0, 3, 30, 31, 62, 79]
    for readers in (1, 2, 4):
        greys = read_grey(clip, numbers, readers)
        np.testing.assert_array_equal(greys, [cv2.cvtColor(frames[i], cv2.COLOR_RGB2GRAY) for i in numbers])


def test_memory_of_random_access_is_bounded(clip, monkeypatch):
    monkeypatch.setattr("instag.data_utils.video.CACHE_BYTES", 0)
    reader = FrameReader(clip)
    for i in range(80):
        reader(i)
    assert len(reader._blocks) == 2


@pytest.mark.parametrize("fps", [15, 24, 29.97, 30, 60])
def test_constant_rate_takes_the_nearest_frame(tmp_path, fps):
    times = np.arange(int(2.6 * fps)) / fps
    path = write_stamped(tmp_path / "any.mp4", times, clock=90000)
    seen = [number_of(frame) for frame in iterate_frames(path)]
    assert abs(len(seen) - (times[-1] + 1 / fps) * 25) <= 1
    off = [abs(times[number] - k / 25) for k, number in enumerate(seen) if k / 25 <= times[-1]]
    assert max(off) <= 0.5 / fps + 0.002


def test_variable_rate(tmp_path):
    times = np.concatenate([np.arange(0, 1, 0.04), np.arange(1, 2, 0.1), [2.0, 2.5, 2.54]])  # a hole of half a second
    seen = [number_of(frame) for frame in iterate_frames(write_stamped(tmp_path / "vfr.mp4", times))]
    assert len(seen) == 65
    assert all(abs(times[number] - k / 25) <= 0.25 for k, number in enumerate(seen))
    assert seen == sorted(seen)


def test_rotation_tag_is_applied(clip, tmp_path):
    data = bytearray(clip.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version 0 track header: the 3x3 matrix
    turn = (0, 65536, 0, -65536, 0, 0, SIZE << 16, 0, 1 << 30)  # shown turned by 90 degrees clockwise
    data[matrix : matrix + 36] = struct.pack(">9i", *turn)
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(data)
    frame = next(iter(iterate_frames(turned)))
    assert frame[4, -4, 0] > 200 and frame[4, 4, 0] < 100  # the mark went from the left to the right


def test_damaged_files_are_named(tmp_path, clip):
    empty, text, short = tmp_path / "empty.mp4", tmp_path / "text.mp4", tmp_path / "short.mp4"
    empty.touch()
    text.write_text("no video")
    with VideoWriter(short, 25, SIZE) as writer:
        for i in range(30):
            writer.write(numbered(i))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[:600])
    for path, word in (
        (empty, "empty"),
        (text, "not a readable video"),
        (cut, "video"),
        (tmp_path / "no.mp4", "no such"),
    ):
        with pytest.raises(DataError, match=word) as error:
            probe(path)
        assert path.name in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(DataError, match="1.2 s"):
        list(iterate_frames(short))


def test_truncated_file_gives_what_is_there(tmp_path, caplog):
    rng = np.random.default_rng(0)
    with VideoWriter(tmp_path / "whole.mp4", 25, SIZE) as writer:  # the index stands in front
        for _ in range(120):
            writer.write(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8))
    whole = writer.path.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: int(0.7 * len(whole))])
    assert 60 <= len(list(iterate_frames(cut))) <= 100
    cut.write_bytes(whole[: int(0.3 * len(whole))])
    with pytest.raises(DataError, match="only 1"):
        list(iterate_frames(cut))


def test_sound_only_is_no_video(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame) + stream.encode(None))
    with pytest.raises(DataError, match="only sound"):
        probe(tmp_path / "sound.mp4")


@pytest.mark.parametrize("seconds", [1.0, 2.0, 5.0])  # shorter than, as long as and longer than the pictures
def test_sound_is_as_long_as_the_pictures(tmp_path, seconds):
    samples = 0.3 * np.sin(np.arange(int(seconds * 16000)) * 0.2)
    with VideoWriter(tmp_path / "talk.mp4", 25, SIZE, audio=(samples, 16000), metadata={"comment": "made"}) as writer:
        for i in range(50):
            writer.write(numbered(i))
    with av.open(str(writer.path)) as container:
        durations = [float(stream.duration * stream.time_base) for stream in container.streams]
        assert container.metadata["comment"] == "made"
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert np.abs(np.array(durations) - 2.0).max() < 1e-3
    expected = np.pad(samples, (0, 32000))[:32000]
    assert np.corrcoef(sound[2000:30000], expected[2000:30000])[0, 1] > 0.99


def test_sound_lies_beside_the_pictures(tmp_path):
    seconds = 30  # more than FFmpeg itself waits for the other stream
    with VideoWriter(tmp_path / "talk.mp4", 25, 16, audio=(np.zeros(seconds * 16000), 16000)) as writer:
        for i in range(seconds * 25):
            writer.write(np.full((16, 16, 3), i % 200, np.uint8))
    with av.open(str(writer.path)) as container:
        packets = sorted((packet.pos, packet.stream.type) for packet in container.demux() if packet.size)
    share = np.cumsum([kind == "audio" for _, kind in packets]) / sum(kind == "audio" for _, kind in packets)
    assert np.abs(share - np.linspace(0, 1, len(share))).max() < 0.15


def test_the_file_does_not_depend_on_who_encodes_which_chunk(tmp_path, monkeypatch):
    count, files = 2 * media.CHUNK + 7, []
    for workers in (1, 3):
        monkeypatch.setattr(media, "MOST_ENCODERS", workers)
        monkeypatch.setattr(media.os, "cpu_count", lambda: 4)
        sound = np.sin(np.arange(count * 640) * 0.2)
        with VideoWriter(tmp_path / "long.mp4", 25, SIZE, gop=20, audio=(sound, 16000)) as writer:
            for i in range(count):
                writer.write(numbered(i))
        files.append(writer.path.read_bytes())
    assert files[0] == files[1]
    with av.open(str(writer.path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert np.all(np.diff([packet.dts for packet in packets]) > 0)
        assert len(set(np.diff(sorted(packet.pts for packet in packets)))) == 1
    assert [number_of(frame) for frame in iterate_frames(writer.path)] == list(range(count))


def test_nothing_is_left_after_an_error(tmp_path, clip):
    before = clip.read_bytes()
    with pytest.raises(ZeroDivisionError), VideoWriter(clip, 25, SIZE) as writer:
        writer.write(numbered(0))
        raise ZeroDivisionError
    with pytest.raises(DataError, match="not uint8"), VideoWriter(clip, 25, SIZE) as writer:
        writer.write(numbered(0, 32))
    assert clip.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    with pytest.raises(DataError, match="cannot be written"):
        VideoWriter(clip / "below" / "a_file.mp4", 25, SIZE)
    with pytest.raises(DataError, match="odd"):
        VideoWriter(tmp_path / "odd.mp4", 25, 63, pixel_format="yuv420p")


def face_in(width, height, center, oval):
    """Landmarks of 3 frames: a face `oval` px high; only top, chin and extent matter."""
    points = np.zeros((3, 478, 3))
    points[:, :, :2] = center
    points[:, 10, 1] -= oval / 2
    points[:, 152, 1] += oval / 2
    return points


def test_crop_frames_the_face():
    crop = square_crop(face_in(1920, 1080, (700, 500), 300), 1920, 1080)
    assert crop.side == 600
    assert abs((700 - crop.left) / crop.side - 0.50) < 0.01 and abs((500 - crop.top) / crop.side - 0.55) < 0.01
    picture = np.arange(1080 * 1920 * 3, dtype=np.uint32).reshape(1080, 1920, 3).astype(np.uint8)
    assert crop.apply(picture, 64).shape == (64, 64, 3)
    np.testing.assert_array_equal(crop.apply(picture, 600), picture[crop.top :, crop.left :][:600, :600])


def test_crop_stays_inside_and_leaves_good_clips_alone():
    assert square_crop(face_in(512, 512, (256, 280), 260), 512, 512).side == 512
    assert square_crop(face_in(700, 700, (350, 300), 200), 700, 700).side == 400  # too small a face
    for center in ((30, 40), (1900, 1060), (960, 540)):
        for oval in (100, 700, 1000):
            crop = square_crop(face_in(1920, 1080, center, oval), 1920, 1080)
            assert 0 <= crop.left <= 1920 - crop.side and 0 <= crop.top <= 1080 - crop.side
