"""Images as people have them: color profiles, EXIF, and PNGs of every depth, made on the spot."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

# Columns of red, green and blue in XYZ under D50, and the exponent of the tone curve.
SPACES = {
    "Display P3": ([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]], 2.2),
    "Adobe RGB": (
        [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]],
        2.19921875,
    ),
    "ProPhoto": ([[0.79767, 0.13519, 0.03134], [0.28804, 0.71188, 0.00009], [0.0, 0.0, 0.82491]], 1.8),
}
SRGB = [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
ORIENTATION, MAKE, EXIF_IFD, GPS_IFD = 0x0112, 0x010F, 0x8769, 0x8825


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The image as a file."""
    if format == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def photograph(height: int = 40, width: int = 60, seed: int = 0) -> Image.Image:
    """Soft colors, away from the ends of the range."""
    small = np.random.default_rng(seed).integers(40, 216, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR)


def exif(orientation: int | None = None) -> Image.Exif:
    """What a telephone writes: its maker, an exposure, and the place."""
    block = Image.Exif()
    block[MAKE] = "A maker"
    block[EXIF_IFD] = {33434: 0.008, 36867: "2026:05:04 03:02:01"}
    block[GPS_IFD] = {1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 36.0)}
    if orientation is not None:
        block[ORIENTATION] = orientation
    return block


def png(width: int, height: int, depth: int, kind: int, rows: bytes, transparent: bytes | None = None) -> bytes:
    """A PNG of any depth and color type; `rows` without filter bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    stride = len(rows) // height
    filtered = b"".join(b"\0" + rows[row * stride : (row + 1) * stride] for row in range(height))
    key = b"" if transparent is None else chunk(b"tRNS", transparent)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + key + chunk(b"IDAT", zlib.compress(filtered)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def rgb_profile(space: str) -> bytes:
    """The profile of one of SPACES: a matrix and a tone curve."""
    matrix, gamma = SPACES[space]
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {b"wtpt": _xyz((0.9642, 1.0, 0.8249))}
    for column, name in enumerate((b"r", b"g", b"b")):
        tags[name + b"XYZ"] = _xyz(tuple(row[column] for row in matrix))
        tags[name + b"TRC"] = curve
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(gamma: float = 1.0) -> bytes:
    """A profile of grey."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": _xyz((0.9642, 1.0, 0.8249)), b"kTRC": curve})


def ink_profile() -> bytes:
    """A profile of four inks whose full tints are not those that a program without it assumes."""
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 3)] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    lightness = 92 * (1 - grid @ [0.35, 0.45, 0.1, 0.85]).clip(0, 1)
    a, b = 60 * (grid[:, 1] - grid[:, 0]), 70 * (grid[:, 2] - 0.6 * grid[:, 0])
    lab = np.stack([lightness * 2.55, a + 128, b + 128], axis=1).round().astype(np.uint8)
    identity = [1, 0, 0, 0, 1, 0, 0, 0, 1]
    table = b"mft1" + bytes(4) + bytes([4, 3, 3, 0]) + struct.pack(">9i", *(65536 * v for v in identity))
    table += bytes(range(256)) * 4 + lab.tobytes() + bytes(range(256)) * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"wtpt": _xyz((0.9642, 1.0, 0.8249)), b"A2B0": table})


def in_srgb(pixels: np.ndarray, space: str) -> np.ndarray:
    """Pixels of one of SPACES as sRGB, float (..., 3), by the formulas, not by a library."""
    matrix, gamma = SPACES[space]
    linear = (pixels / 255.0) ** gamma @ (np.linalg.inv(SRGB) @ matrix).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    offset = 132 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", offset + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", 128 + len(table) + len(body), b"", 0x02400000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">3i", *(round(value * 65536) for value in (0.9642, 1.0, 0.8249)))
    return head + bytes(128 - len(head)) + table + body
