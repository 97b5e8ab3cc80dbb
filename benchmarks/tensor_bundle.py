"""A writer of checkpoints of TensorFlow, version 2, as far as tests and benchmarks need one."""

import struct
from pathlib import Path

import numpy as np

from elmo_hf.checkpoints.crc32c import crc32c


def _varint(value: int) -> bytes:
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    return _varint(number << 3) + _varint(value) if value else b""


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Without prefixes that are shared, which a reader must not ask for."""
    body = b"".join(
        _varint(0) + _varint(len(key)) + _varint(len(value)) + key + value for key, value in entries
    ) + struct.pack("<II", 0, 1)
    return body + b"\0" + struct.pack("<I", _masked(crc32c(body + b"\0")))


def write_bundle(stem: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes `stem.index` and one shard; float32."""
    entries = [(b"", _field(1, 1) + _field(3, _field(1, 1)))]
    offset = 0
    with open(f"{stem}.data-00000-of-00001", "wb") as shard:
        for name in sorted(arrays, key=str.encode):
            values = np.ascontiguousarray(arrays[name], dtype="<f4")
            shape = b"".join(_field(2, _field(1, size)) for size in values.shape)
            message = _field(1, 1) + _field(2, shape) + _field(4, offset) + _field(5, values.nbytes)
            message += _varint(6 << 3 | 5) + struct.pack("<I", _masked(crc32c(values.reshape(-1))))
            entries.append((name.encode(), message))
            shard.write(values.tobytes())
            offset += values.nbytes
    data, meta = _block(entries), _block([])
    index = _block([(entries[-1][0], _varint(0) + _varint(len(data) - 5))])
    footer = _varint(len(data)) + _varint(len(meta) - 5) + _varint(len(data) + len(meta)) + _varint(len(index) - 5)
    footer = footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")
    Path(f"{stem}.index").write_bytes(data + meta + index + footer)
