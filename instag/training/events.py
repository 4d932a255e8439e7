"""TensorBoard event files of scalars, written without TensorBoard, whose import takes as long as torch's.

Format: records of length, checksum, data, checksum (TFRecord); the data are `Event` messages of protocol buffers.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

VERSION = b"brain.Event:2"
WALL_TIME, STEP, FILE_VERSION, SUMMARY, SESSION_LOG = 1, 2, 3, 5, 7  # fields of Event
VALUE, TAG, SIMPLE_VALUE, STATUS, START = 1, 1, 2, 1, 1  # of Summary, Summary.Value, SessionLog
VARINT, DOUBLE, BYTES, FLOAT = 0, 1, 2, 5  # wire types
CASTAGNOLI = 0x82F63B78  # CRC-32C, bits reversed
MASK_DELTA = 0xA282EAD8


class EventFile:
    """Scalars over steps, in `<folder>/events.out.tfevents.*`.

    Args:
        folder: made where it is missing.
        first_step: readers drop what earlier files of the folder say from this step on.
    """

    def __init__(self, folder: Path, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("ab")
        self._event(0, _field(FILE_VERSION, VERSION))
        self._event(first_step, _field(SESSION_LOG, _varint_field(STATUS, START)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Values by their tags."""
        summary = b"".join(
            _field(VALUE, _field(TAG, tag.encode()) + _key(SIMPLE_VALUE, FLOAT) + struct.pack("<f", value))
            for tag, value in values.items()
        )
        self._event(step, _field(SUMMARY, summary))

    def close(self) -> None:
        """Write what is left."""
        self._file.close()

    def _event(self, step: int, content: bytes) -> None:
        data = _key(WALL_TIME, DOUBLE) + struct.pack("<d", time.time()) + _varint_field(STEP, step) + content
        length = struct.pack("<Q", len(data))
        self._file.write(length + _checksum(length) + data + _checksum(data))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint_field(field: int, number: int) -> bytes:
    return _key(field, VARINT) + _varint(number)


def _field(field: int, content: bytes) -> bytes:
    return _key(field, BYTES) + _varint(len(content)) + content


@cache
def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (CASTAGNOLI if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


def _checksum(data: bytes) -> bytes:
    """Masked CRC-32C."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF)
