"""The checksum that TensorFlow writes beside each tensor, fast enough for gigabytes by NumPy alone."""

import numpy as np

_POLYNOMIAL = 0x82F63B78
_CHUNK = 1 << 10  # bytes that are summed one after the other, many chunks side by side
_BLOCK = 1 << 24  # bytes at a time: larger ones fall out of the cache


def _byte_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> np.uint32(1)) ^ np.uint32(_POLYNOMIAL), table >> np.uint32(1))
    return table.astype(np.uint32)


_BYTES = _byte_table()


def _after_zeros(states: np.ndarray, number: int) -> np.ndarray:
    """States after so many bytes of zeros."""
    for _ in range(number):
        states = (states >> np.uint32(8)) ^ _BYTES[states & np.uint32(0xFF)]
    return states


# What the low and the high half of a state become after four bytes.
_LOW = _after_zeros(np.arange(65536, dtype=np.uint32), 4)
_HIGH = _after_zeros(np.arange(65536, dtype=np.uint32) << np.uint32(16), 4)
_ONE_BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)


def _apply(matrix: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Each state through a linear map, given by what it makes of each bit."""
    result = np.zeros_like(states)
    for bit in range(32):
        result ^= np.where((states >> np.uint32(bit)) & np.uint32(1), matrix[bit], np.uint32(0))
    return result


def crc32c(data: np.ndarray | bytes) -> int:
    """CRC-32C (Castagnoli) of bytes."""
    content = np.frombuffer(data, dtype=np.uint8) if isinstance(data, bytes) else data.view(np.uint8).reshape(-1)
    state = np.uint32(0xFFFFFFFF)
    for start in range(0, len(content), _BLOCK):
        state = _continued(state, content[start : start + _BLOCK])
    return int(state ^ np.uint32(0xFFFFFFFF))


def _continued(state: np.uint32, content: np.ndarray) -> np.uint32:
    number = len(content) // _CHUNK
    if number:
        # (steps, chunks) words of four bytes
        words = np.ascontiguousarray(content[: number * _CHUNK].view("<u4").reshape(number, -1).T).astype(np.uint32)
        states = np.zeros(number, dtype=np.uint32)
        states[0] = state
        for word in words:
            states ^= word
            states = _LOW[states & np.uint32(0xFFFF)] ^ _HIGH[states >> np.uint32(16)]
        state = _joined(states)
    for byte in content[number * _CHUNK :].tolist():
        state = (state >> np.uint32(8)) ^ _BYTES[(int(state) ^ byte) & 0xFF]
    return state


def _joined(states: np.ndarray) -> np.uint32:
    """One state from those of chunks that follow each other."""
    matrix = _after_zeros(_ONE_BITS, _CHUNK)
    # In front, chunks of zeros change nothing.
    length = 1 << (len(states) - 1).bit_length()
    states = np.concatenate([np.zeros(length - len(states), dtype=np.uint32), states])
    while len(states) > 1:
        states = _apply(matrix, states[::2]) ^ states[1::2]
        matrix = _apply(matrix, matrix)
    return np.uint32(states[0])
