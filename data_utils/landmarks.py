"""Face landmarks and person masks from MediaPipe's small networks. The only file that imports mediapipe.

The wheel of mediapipe 0.10.14 carries the models, so nothing is downloaded. Legacy FaceMesh with refined lips and eyes
is used, not the newer task: it is faster and does not smooth blinks away (notes: preprocessing, section 2).
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from instag.closing import Closing
from instag.data_utils.face_points import LANDMARKS_478
from instag.errors import DataError, InstagError

LONGEST_GAP = 5  # frames without a face that are bridged by interpolation
PERSON_SIZE = 256  # side of the segmentation network's input and output
WARM_UP_PICTURE = (64, 64, 3)  # shown once at the start, while the networks' chatter is muted
PINNED = "mediapipe==0.10.14"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TensorFlow Lite and MediaPipe report on their graphs from C, on standard error; hide that."""
    os.environ.setdefault("GLOG_minloglevel", "3")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def mediapipe_solutions() -> ModuleType:
    """`mediapipe.solutions`, or an error that says how to get it."""
    # mediapipe 0.10.14 calls a function that its own protobuf declares deprecated.
    warnings.filterwarnings("ignore", message="SymbolDatabase.GetPrototype", category=UserWarning)
    try:
        with _quiet():
            import mediapipe

            return mediapipe.solutions
    except ImportError as error:
        if "libGL" in str(error) or "libgthread" in str(error) or "libglib" in str(error):
            remedy = f"a system library is missing ({error}): apt-get install -y libgl1 libglib2.0-0"
        else:
            remedy = f"({error}): pip install {PINNED}, which exists for Python 3.9 to 3.12"
        raise InstagError(f"preprocessing needs mediapipe, which cannot be imported; {remedy}") from None
    except AttributeError:
        raise InstagError(f"this mediapipe has no `solutions`; pip install {PINNED} (Python 3.9 to 3.12)") from None


def _single_threaded(network: type) -> type:
    """A mediapipe solution whose graph runs on one thread.

    By itself it starts one for each of its 53 calculators, up to the cores of the machine, not of this process: they
    change places 36 times a picture where the calculators wait for each other anyway. The results are the same.
    """

    def configure(self: object, *arguments: object) -> object:
        config = network._initialize_graph_interface(self, *arguments)
        del config.executor[:]
        config.num_threads = 1
        return config

    return type(network.__name__, (network,), {"_initialize_graph_interface": configure})


class FaceTracker(Closing):
    """FaceMesh on the pictures of one clip, in order: it follows the face from frame to frame."""

    def __init__(self) -> None:
        self._net = None
        solutions = mediapipe_solutions()
        with _quiet():
            network = _single_threaded(solutions.face_mesh.FaceMesh)
            self._net = network(static_image_mode=False, max_num_faces=1, refine_landmarks=True)
            self._net.process(np.zeros(WARM_UP_PICTURE, np.uint8))

    def __call__(self, frame: np.ndarray) -> np.ndarray | None:
        """Landmarks of uint8 [H, W, 3]: [478, 3] float32 (x right, y down in pixels, pixel centres at +0.5; z away
        from the camera in the same scale, relative to the head), or None where no face is found."""
        faces = self._net.process(frame).multi_face_landmarks
        if not faces:
            return None
        height, width = frame.shape[:2]
        points = np.array([(p.x, p.y, p.z) for p in faces[0].landmark], np.float32)
        return points * np.array([width, height, width], np.float32)

    def restart(self) -> None:
        """Forget where the face was: the next picture shows another place."""
        self._net.process(np.zeros(WARM_UP_PICTURE, np.uint8))  # as good as `reset`, which builds the networks anew

    def close(self) -> None:
        """Free the network."""
        if self._net is not None:
            self._net.close()
            self._net = None


class FaceFinder(Closing):
    """Full-range face detection: all faces of single pictures, down to a twentieth of their width."""

    def __init__(self) -> None:
        solutions = mediapipe_solutions()
        with _quiet():
            self._net = _single_threaded(solutions.face_detection.FaceDetection)(model_selection=1)
            self._net.process(np.zeros(WARM_UP_PICTURE, np.uint8))

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Boxes of uint8 [H, W, 3]: float32 [n, 3] left, top, side in pixels."""
        height, width = frame.shape[:2]
        found = self._net.process(frame).detections or ()
        boxes = [detection.location_data.relative_bounding_box for detection in found]
        sides = [max(box.width * width, box.height * height) for box in boxes]
        rows = [(box.xmin * width, box.ymin * height, side) for box, side in zip(boxes, sides, strict=True)]
        return np.array(rows, np.float32).reshape(-1, 3)

    def close(self) -> None:
        """Free the network."""
        self._net.close()


class PersonSegmenter(Closing):
    """Selfie segmentation, the 256 x 256 model: where a picture shows the person."""

    def __init__(self) -> None:
        solutions = mediapipe_solutions()
        with _quiet():
            self._net = _single_threaded(solutions.selfie_segmentation.SelfieSegmentation)(model_selection=0)
            self._net.process(np.zeros(WARM_UP_PICTURE, np.uint8))

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Probability of the person, uint8 (0..255) [256, 256], of uint8 [H, W, 3]."""
        import cv2

        small = frame
        if frame.shape[:2] != (PERSON_SIZE, PERSON_SIZE):
            small = cv2.resize(frame, (PERSON_SIZE, PERSON_SIZE), interpolation=cv2.INTER_AREA)
        mask = self._net.process(small).segmentation_mask
        return np.round(np.clip(mask, 0, 1) * 255).astype(np.uint8)

    def close(self) -> None:
        """Free the network."""
        self._net.close()


def track_landmarks(frames: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks of a clip's pictures, in order.

    Returns:
        landmarks [T, 478, 3] float32 as `FaceTracker` gives them, not-a-number where no face was found;
        found [T] bool.
    """
    with FaceTracker() as tracker:
        points = [tracker(frame) for frame in frames]
    return collect_landmarks(points)


def collect_landmarks(points: list[np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
    """Stack the results of `FaceTracker` as `track_landmarks` returns them."""
    found = np.array([p is not None for p in points], bool)
    landmarks = np.full((len(points), LANDMARKS_478, 3), np.nan, np.float32)
    for i in np.flatnonzero(found):
        landmarks[i] = points[i]
    return landmarks, found


def fill_gaps(landmarks: np.ndarray, found: np.ndarray, source: str) -> np.ndarray:
    """Landmarks with the frames that have no face filled in between (held at the ends).

    Args:
        landmarks: [T, 478, 3]; values where `found` is False are not used.
        found: [T] bool.
        source: file name for the message.

    Returns:
        [T, 478, 3], finite.

    Raises:
        DataError: no face for more than 5 frames on end; the message gives the frames.
    """
    if not found.any():
        raise DataError(f"{source}: no face found in any frame; give a clip that shows one face from the front")
    for first, last in _runs(~found):
        if last - first + 1 > LONGEST_GAP:
            raise DataError(
                f"{source}: no face found in frames {first}-{last} (25 a second); cut that part out of the clip"
            )
    if found.all():
        return landmarks
    here, seen = np.arange(len(found)), np.flatnonzero(found)
    after = np.searchsorted(seen, here).clip(0, len(seen) - 1)  # index into `seen` of the next found frame
    before = np.where(seen[after] == here, after, (after - 1).clip(0))
    start, stop = seen[before], seen[after]
    share = np.where(stop > start, (here - start) / np.maximum(stop - start, 1), 0.0).clip(0, 1)[:, None, None]
    filled = (1 - share) * landmarks[start] + share * landmarks[stop]
    return filled.astype(np.float32)


def _runs(mask: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    yield from ((int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True))
