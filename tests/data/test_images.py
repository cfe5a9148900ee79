"""Tests of reading images and masks of all common kinds, and damaged files. Expected pixels are computed here."""

import gc
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from stpp.data.images import read_image
from stpp.data.mask_pixels import read_mask, to_classes
from stpp.store import decoding
from stpp.store.files import StppError
from stpp.store.masks import decode_mask

Pixels = NDArray[np.uint8]

RNG = np.random.default_rng(0)
RGB: Pixels = RNG.integers(0, 256, (9, 14, 3)).astype(np.uint8)
GREY: Pixels = RGB[:, :, 0]
SMOOTH: Pixels = np.repeat(np.repeat(RNG.integers(0, 256, (3, 4, 3)), 16, 0), 16, 1).astype(np.uint8)


def grey_as_rgb(grey: NDArray[Any]) -> Pixels:
    return np.stack([grey, grey, grey], axis=2).astype(np.uint8)


# -- kinds of images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "webp"])
def test_lossless_rgb_is_read_exactly_and_without_notes(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path, lossless=True)
    image, notes = read_image(path)
    assert image.dtype == np.uint8
    assert np.array_equal(image, RGB)
    assert notes == []


def test_jpeg_is_read_within_a_small_error(tmp_path: Path) -> None:
    Image.fromarray(SMOOTH).save(tmp_path / "a.jpg", quality=95, subsampling=0)
    image, notes = read_image(tmp_path / "a.jpg")
    assert np.abs(image.astype(int) - SMOOTH).max() <= 6
    assert notes == []


def test_the_format_is_detected_from_the_content_not_from_the_name(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg", format="PNG")
    assert np.array_equal(read_image(tmp_path / "a.jpg")[0], RGB)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_grey_is_repeated_in_three_channels(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / f"a.{suffix}")
    image, notes = read_image(tmp_path / f"a.{suffix}")
    assert np.array_equal(image, grey_as_rgb(GREY))
    assert [n for n in notes if "grey-scale" in n] == notes != []


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_eight_and_rounded(suffix: str, tmp_path: Path) -> None:
    values = np.array([[0, 1, 128, 129, 257, 32767, 32768], [65535, 65534, 65406, 255, 256, 385, 386]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    image, notes = read_image(tmp_path / f"a.{suffix}")
    assert image[:, :, 0].tolist() == [[int(v / 257 + 0.5) for v in row] for row in values.tolist()]
    assert np.array_equal(image, grey_as_rgb(image[:, :, 0]))
    assert any("16 bits" in n for n in notes)


def test_sixteen_bits_are_read_in_both_byte_orders(tmp_path: Path) -> None:
    values = RNG.integers(0, 65536, (4, 5)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "little.tif")
    Image.frombytes("I;16B", (5, 4), values.astype(">u2").tobytes()).save(tmp_path / "big.tif")
    assert (tmp_path / "big.tif").read_bytes()[:2] == b"MM"
    assert np.array_equal(read_image(tmp_path / "big.tif")[0], read_image(tmp_path / "little.tif")[0])
    assert np.array_equal(read_mask(tmp_path / "big.tif"), values)


@pytest.mark.parametrize("suffix", ["tif", "jpg"])
def test_cmyk_is_converted(suffix: str, tmp_path: Path) -> None:
    inks = np.concatenate([SMOOTH, SMOOTH[::-1, ::-1, :1] // 2], axis=2)
    Image.frombytes("CMYK", inks.shape[1::-1], inks.tobytes()).save(tmp_path / f"a.{suffix}", quality=95)
    image, notes = read_image(tmp_path / f"a.{suffix}")
    expected = (255.0 - inks[:, :, :3]) * (255.0 - inks[:, :, 3:]) / 255
    assert np.abs(image - expected).max() <= (1 if suffix == "tif" else 8)
    assert any("CMYK" in n for n in notes)


@pytest.mark.parametrize("alpha", [0, 77, 255])
def test_alpha_is_dropped_and_not_blended(alpha: int, tmp_path: Path) -> None:
    opacity = np.full((9, 14, 1), alpha, dtype=np.uint8)
    Image.fromarray(np.concatenate([RGB, opacity], axis=2)).save(tmp_path / "rgba.png")
    Image.fromarray(np.concatenate([GREY[:, :, None], opacity], axis=2)).save(tmp_path / "la.png")
    for name, expected in {"rgba.png": RGB, "la.png": grey_as_rgb(GREY)}.items():
        image, notes = read_image(tmp_path / name)
        assert np.array_equal(image, expected)
        assert any("alpha" in n for n in notes)


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tif"])
def test_a_palette_is_looked_up(suffix: str, tmp_path: Path) -> None:
    colours = RNG.integers(0, 256, (256, 3)).astype(np.uint8)
    image = Image.fromarray(GREY)
    image.putpalette(colours.tobytes())
    image.save(tmp_path / f"a.{suffix}")
    read, _ = read_image(tmp_path / f"a.{suffix}")
    assert np.array_equal(read, np.array([[colours[v] for v in row] for row in GREY]))


def test_a_palette_with_alpha_is_looked_up_without_a_warning(tmp_path: Path) -> None:
    colours = RNG.integers(0, 256, (256, 3)).astype(np.uint8)
    image = Image.fromarray(GREY)
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "a.png", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read, notes = read_image(tmp_path / "a.png")
    assert np.array_equal(read, colours[GREY])
    assert any("palette" in n for n in notes)


def test_black_and_white_is_0_and_255(tmp_path: Path) -> None:
    bits = GREY > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    image, notes = read_image(tmp_path / "a.png")
    assert np.array_equal(image, grey_as_rgb(bits * np.uint8(255)))
    assert any("black and white" in n for n in notes)


# -- EXIF orientation -------------------------------------------------------------------------------------------------

# EXIF orientation -> the side that shows the first stored row, and the side that shows the first stored column.
SEEN = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def as_seen(stored: Pixels, orientation: int) -> Pixels:
    """Return the image as EXIF says that it is seen: every stored pixel is moved to its place."""
    rows, columns = stored.shape[:2]
    of_row, of_column = SEEN[orientation]
    shape = (rows, columns) if of_row in ("top", "bottom") else (columns, rows)
    seen = np.zeros((*shape, *stored.shape[2:]), dtype=stored.dtype)
    for r in range(rows):
        for c in range(columns):
            at = {}
            for side, index in ((of_row, r), (of_column, c)):
                axis = 0 if side in ("top", "bottom") else 1
                at[axis] = index if side in ("top", "left") else shape[axis] - 1 - index
            seen[at[0], at[1]] = stored[r, c]
    return seen


def with_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("orientation", SEEN)
def test_an_image_and_its_mask_are_turned_upright(orientation: int, tmp_path: Path) -> None:
    exif = with_orientation(orientation)
    for name, stored in {"rgb.png": RGB, "rgb.tif": RGB, "grey.png": GREY}.items():
        Image.fromarray(stored).save(tmp_path / name, exif=exif)
        image, notes = read_image(tmp_path / name)
        expected = as_seen(stored, orientation)
        assert np.array_equal(image, expected if stored.ndim == 3 else grey_as_rgb(expected))
        if name != "rgb.tif":  # Pillow turns TIFFs itself
            assert any("EXIF" in n for n in notes) == (orientation != 1)
    assert np.array_equal(read_mask(tmp_path / "grey.png"), as_seen(GREY, orientation))


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    Image.fromarray(SMOOTH).save(tmp_path / "a.jpg", quality=95, subsampling=0, exif=with_orientation(6))
    image, _ = read_image(tmp_path / "a.jpg")
    assert np.abs(image.astype(int) - as_seen(SMOOTH, 6)).max() <= 6


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_invalid_exif_orientation_is_ignored(orientation: int, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=with_orientation(orientation))
    image, notes = read_image(tmp_path / "a.png")
    assert np.array_equal(image, RGB)
    assert notes == []


def test_an_image_with_malformed_exif_is_read(tmp_path: Path) -> None:
    orientation, maker = (0x0112, 3, 1, 6), (0x010F, 11, 1, 0x3F800000)  # the maker's name is a number
    entries = b"".join(struct.pack("<HHII", *entry) for entry in (maker, orientation))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)
    Image.fromarray(SMOOTH).save(tmp_path / "a.jpg", quality=95, subsampling=0, exif=exif)
    image, _ = read_image(tmp_path / "a.jpg")
    assert np.abs(image.astype(int) - as_seen(SMOOTH, 6)).max() <= 6


# -- damaged files ----------------------------------------------------------------------------------------------------


def encoded(format_: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).save(buffer, format=format_)
    return buffer.getvalue()


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize("content", [b"<html>404</html>", b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", None])
def test_the_error_names_a_file_that_is_not_an_image(
    read: Callable[[Path], Any], content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "photo.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StppError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ")


def test_the_error_names_a_folder_with_an_images_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(StppError, match=r"a\.png: "):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "BMP", "WEBP", "GIF"])
def test_a_truncated_image_is_named_and_never_read_in_part(format_: str, tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    whole = encoded(format_)
    path.write_bytes(whole)
    complete, _ = read_image(path)
    refused = 0
    cuts = range(0, len(whole), max(1, len(whole) // 40))
    for cut in cuts:
        path.write_bytes(whole[:cut])
        try:
            assert np.array_equal(read_image(path)[0], complete)
        except StppError as error:
            assert str(error).startswith(f"{path}: ")
            refused += 1
    assert refused >= 0.8 * len(cuts)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "BMP", "WEBP", "GIF"])
def test_changed_bytes_give_an_image_or_an_error_that_names_it(format_: str, tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    whole = encoded(format_)
    rng = np.random.default_rng(0)
    for _ in range(60):
        changed = bytearray(whole)
        for at in rng.integers(0, rng.choice([100, len(whole)]), 2):
            changed[at % len(whole)] = rng.integers(256)
        path.write_bytes(changed)
        try:
            image, _ = read_image(path)
            assert image.shape[2] == 3
        except StppError as error:
            assert str(error).startswith(f"{path}: ")


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    with pytest.raises(StppError, match=r"bomb\.png: .*more than \d+ pixels; cut it into tiles"):
        read_image(path)


@pytest.mark.parametrize(
    "values", [np.zeros((2, 2), np.float32), np.array([[0, 70_000]], np.int32), np.array([[-1]], np.int32)]
)
def test_values_without_a_fixed_range_are_refused(values: NDArray[Any], tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(StppError, match=r"a\.tif: .*fixed range; save it as 8-"):
        read_image(tmp_path / "a.tif")


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_no_file_stays_open(tmp_path: Path) -> None:
    gc.collect()
    before = open_files()
    kept = []
    for format_ in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        (tmp_path / "whole").write_bytes(encoded(format_))
        (tmp_path / "half").write_bytes(encoded(format_)[: len(encoded(format_)) // 2])
        kept.append(read_image(tmp_path / "whole"))
        with warnings.catch_warnings(), pytest.raises(StppError) as error:
            warnings.simplefilter("ignore", UserWarning)  # Pillow warns about a truncated TIFF
            read_image(tmp_path / "half")
        kept.append(error)
    assert open_files() == before


# -- fast decoders ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["kornia", "opencv"])
def png_reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with each of the two PNG decoders, which must give the same pixels."""
    if request.param == "opencv":
        monkeypatch.setattr(decoding, "decode_image_png_u8", None)
    elif decoding.decode_image_png_u8 is None:
        pytest.skip("kornia-rs is not installed")
    return str(request.param)


def photograph(height: int, width: int, seed: int) -> Pixels:
    """Return an image with edges, gradients and noise."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)), np.ones((8, 8, 1)))[:height, :width]
    return np.clip(coarse + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (64, 48), (121, 203)])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("more", [{}, {"progressive": True}, {"quality": 30}, {"restart_marker_rows": 1}], ids=str)
def test_jpegs_are_read_as_pillow_reads_them_bit_for_bit(
    size: tuple[int, int], subsampling: int, more: dict[str, Any], tmp_path: Path
) -> None:
    Image.fromarray(photograph(*size, 0)).save(
        tmp_path / "a.jpg", **({"quality": 92, "subsampling": subsampling} | more)
    )
    assert np.array_equal(read_image(tmp_path / "a.jpg")[0], np.asarray(Image.open(tmp_path / "a.jpg")))


@pytest.mark.usefixtures("png_reader")
@pytest.mark.parametrize("size", [(1, 1), (7, 13), (121, 203)])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_pngs_are_read_bit_for_bit_by_every_decoder(size: tuple[int, int], level: int, tmp_path: Path) -> None:
    pixels = photograph(*size, 1)
    Image.fromarray(pixels).save(tmp_path / "a.png", compress_level=level)
    values = Image.fromarray(pixels[:, :, 0])
    values.save(tmp_path / "m.png", compress_level=level)
    values.putpalette(bytes(range(60)))  # 20 colours; values without a colour stay values
    values.save(tmp_path / "p.png", compress_level=level, bits=8)
    image, notes = read_image(tmp_path / "a.png")
    assert np.array_equal(image, pixels)
    assert notes == []
    for name in ("m.png", "p.png"):
        assert np.array_equal(read_mask(tmp_path / name), pixels[:, :, 0])
        assert np.array_equal(decode_mask((tmp_path / name).read_bytes()), pixels[:, :, 0])


@pytest.mark.usefixtures("png_reader")
def test_optional_chunks_of_a_png_do_not_change_its_pixels(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    Image.fromarray(RGB).save(tmp_path / "a.png")
    plain = (tmp_path / "a.png").read_bytes()
    extra = (
        chunk(b"gAMA", struct.pack(">I", 100_000)) + chunk(b"sBIT", b"\x05\x06\x05") + chunk(b"tEXt", b"Software\0x")
    )
    (tmp_path / "a.png").write_bytes(plain[:33] + extra + plain[33:])
    assert np.array_equal(read_image(tmp_path / "a.png")[0], RGB)


@pytest.mark.usefixtures("png_reader")
def test_an_orientation_after_the_pixels_of_a_png_is_used(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=with_orientation(3))
    data = (tmp_path / "a.png").read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    (tmp_path / "a.png").write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
    assert np.array_equal(read_image(tmp_path / "a.png")[0], RGB[::-1, ::-1])


@pytest.mark.usefixtures("png_reader")
@pytest.mark.parametrize("kind", ["image", "palette"])
def test_damaged_pngs_give_the_same_result_with_and_without_the_fast_decoder(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is what Pillow reads, or its error, which names the file. It is never a part of the image."""
    path = tmp_path / "a.png"
    picture = Image.fromarray(SMOOTH if kind == "image" else SMOOTH[:, :, 0])
    if kind == "palette":
        picture.putpalette(bytes(range(256)) * 3)
    picture.save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    damaged = [whole[:cut] for cut in range(0, len(whole), max(1, len(whole) // 40))]
    damaged += [whole[:cut] + whole[-12:] for cut in range(60, len(whole), max(1, len(whole) // 40))]
    for _ in range(60):
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] = rng.integers(256)
        damaged.append(bytes(changed))

    def outcome() -> tuple[Any, ...]:
        try:
            read = read_image(path)[0] if kind == "image" else read_mask(path)
            return read.shape, read.tobytes()
        except StppError as error:
            return (str(error),)

    for content in damaged:
        path.write_bytes(content)
        soon = outcome()
        with monkeypatch.context() as without:
            without.setattr(decoding, "decode_png", lambda *_: None)
            assert soon == outcome()
        assert len(soon) == 2 or soon[0].startswith(f"{path}: ")


# -- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_grey_and_palette_masks_are_their_values(suffix: str, tmp_path: Path) -> None:
    coloured = Image.fromarray(GREY)
    coloured.putpalette(RNG.integers(0, 256, (256, 3)).astype(np.uint8).tobytes())
    coloured.save(tmp_path / f"palette.{suffix}")
    Image.fromarray(GREY).save(tmp_path / f"grey.{suffix}")
    for kind in ("grey", "palette"):
        values = read_mask(tmp_path / f"{kind}.{suffix}")
        assert values.dtype == np.uint8
        assert np.array_equal(values, GREY)


def test_masks_of_one_and_of_sixteen_bits_keep_their_values(tmp_path: Path) -> None:
    Image.fromarray(GREY > 127).save(tmp_path / "bits.png")
    assert np.array_equal(read_mask(tmp_path / "bits.png"), (GREY > 127).astype(int))
    values = np.array([[0, 255, 256], [1000, 40_000, 65_535]], dtype=np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert np.array_equal(read_mask(tmp_path / name), values)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "F"])
def test_a_mask_of_colours_is_refused_where_numbers_are_expected(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(RGB if "RGB" in mode else RGB[:, :, 0]).convert(mode).save(path)
    mode = mode.removesuffix("A")
    with pytest.raises(StppError, match=rf"a\.tif: .*one channel of class ids, but this is {mode}"):
        read_mask(path)


VALUES = st.integers(0, 12) | st.sampled_from([-1, 254, 255, 256, 65_535, 65_536, 2**31 - 1, -(2**31)])
NAMED = st.integers(0, 12) | st.sampled_from([255, 65_535])
MEANING = st.dictionaries(NAMED, st.integers(0, 255), min_size=1)


@settings(max_examples=100, deadline=None)
@given(st.data(), MEANING, st.booleans())
def test_values_are_mapped_to_classes_and_the_first_unknown_value_is_reported(
    data: st.DataObject, meaning: dict[int, int], eight_bits: bool
) -> None:
    known = st.sampled_from(sorted(meaning))
    shapes = st.tuples(st.integers(1, 4), st.integers(1, 4))
    values = data.draw(arrays(np.int32, shapes, elements=data.draw(st.sampled_from([known, known | VALUES]))))
    if eight_bits:
        values = values.astype(np.uint8)
    expected = np.zeros(values.shape, dtype=np.uint8)
    unknown = []
    for r in range(values.shape[0]):
        for c in range(values.shape[1]):
            if int(values[r, c]) in meaning:
                expected[r, c] = meaning[int(values[r, c])]
            else:
                unknown.append(int(values[r, c]))
    if unknown:
        with pytest.raises(KeyError) as error:
            to_classes(values, meaning)
        assert error.value.args == (unknown[0],)
    else:
        labels = to_classes(values, meaning)
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, expected)


@pytest.mark.parametrize("unknown", [None, 7, 255])
def test_masks_are_checked_even_if_all_8_bit_values_have_a_meaning(unknown: int | None) -> None:
    meaning = {value: 255 - value for value in range(256) if value != unknown} | {1000: 0, 1001: 248}
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    if unknown is None:
        assert np.array_equal(to_classes(values, meaning), 255 - values)
    else:
        with pytest.raises(KeyError) as error:
            to_classes(values, meaning)
        assert error.value.args == (unknown,)


def test_a_grey_mask_of_few_bits_is_refused_because_its_values_would_be_scaled(tmp_path: Path) -> None:
    """Pillow reads the value 15 of a 4-bit mask as 255, which would then be ignored without a message."""
    rows = b"".join(b"\x00" + bytes([0x0F, 0x12]) for _ in range(2))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 4, 2, 4, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "m.png").write_bytes(png)
    with pytest.raises(StppError, match=r"m\.png: its grey values would be rescaled"):
        read_mask(tmp_path / "m.png")


def tiff(values: NDArray[np.uint8], **tags: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, format="TIFF", tiffinfo={262: tags["photometric"]})
    return out.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"P5\n2 1\n1\n\x00\x01",
        b"P5\n2 1\n254\n\x00\xc8",
        b"P2\n2 1\n20\n1 20\n",
        b"P4\n2 1\n\x80",
        b"P1\n2 1\n1 0\n",
        tiff(np.array([[0, 1]], dtype=np.uint8), photometric=0),
    ],
)
def test_masks_whose_values_a_reader_would_scale_or_invert_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(StppError, match=r"/m: its grey values would be rescaled .* save the mask as 8-bit PNG"):
        read_mask(tmp_path / "m")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"P5\n2 1\n255\n\x01\x14", [[1, 20]]),
        (b"P5\n2 1\n65535\n\x00\x01\x07\xd0", [[1, 2000]]),
        (b"P2\n2 1\n255\n1 20\n", [[1, 20]]),
        (tiff(np.array([[0, 20]], dtype=np.uint8), photometric=1), [[0, 20]]),
    ],
)
def test_masks_of_full_range_keep_their_values(content: bytes, expected: list[list[int]], tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(content)
    assert read_mask(tmp_path / "m").tolist() == expected


@pytest.mark.parametrize("exif", [b"II*\0", b"MM", b"Exif\0\0II"])
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_a_truncated_exif_block_gives_the_image_or_an_error_that_names_the_file(
    exif: bytes, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path, exif=exif, lossless=True)
    try:
        image, _ = read_image(path)
    except StppError as error:
        assert str(error).startswith(f"{path}: ")
    else:
        assert np.array_equal(image, RGB)


# -- no silent errors -------------------------------------------------------------------------------------------------


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(pixels: NDArray[Any], *, rows: int | None = None, adler: int = 0) -> bytes:
    """Return a PNG (grey, RGB or RGBA) with correct chunk checksums, but possibly missing or damaged pixels."""
    raw = b"".join(b"\0" + row.tobytes() for row in pixels[:rows])
    packed = bytearray(zlib.compress(raw))
    packed[-1] ^= adler
    bands = pixels.shape[2] if pixels.ndim == 3 else 1
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, {1: 0, 3: 2, 4: 6}[bands], 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", bytes(packed)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*one) for one in chunks)


@pytest.mark.usefixtures("png_reader")
@pytest.mark.parametrize("kind", ["RGB", "RGBA", "L", "P", "I;16", "interlaced"])
def test_any_changed_bit_of_a_png_is_detected(kind: str, tmp_path: Path) -> None:
    """A single changed bit once altered an eighth of a mask's pixels without an error."""
    path, rng = tmp_path / "a.png", np.random.default_rng(0)
    if kind == "interlaced":
        whole = interlaced(SMOOTH[:, :, 0])
    else:
        picture = Image.fromarray(SMOOTH).convert("L" if kind in ("P", "I;16") else kind)
        if kind == "P":
            picture.putpalette(bytes(range(256)) * 3)
        picture = Image.fromarray(np.asarray(picture) // 128 * np.uint16(65535)) if kind == "I;16" else picture
        picture.save(path)
        whole = path.read_bytes()
    path.write_bytes(whole)
    read = [read_image] if kind in ("RGB", "RGBA") else [read_image, read_mask]
    for one in read:
        one(path)
    for at in rng.permutation(range(8, len(whole)))[:150]:
        changed = bytearray(whole)
        changed[at] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        for one in read:
            with pytest.raises(StppError, match=r"a\.png: "):
                one(path)


def interlaced(grey: Pixels) -> bytes:
    """Return a PNG in the seven passes of Adam7."""
    starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = [row for y, x, dy, dx in starts for row in grey[y::dy, x::dx] if row.size]
    header = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 8, 0, 0, 0, 1)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = (b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*one) for one in chunks)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (9, 14), (16, 16)])
def test_an_interlaced_png_is_read(size: tuple[int, int], tmp_path: Path) -> None:
    grey = RNG.integers(0, 256, size).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(interlaced(grey))
    assert np.array_equal(read_mask(tmp_path / "a.png"), grey)


@pytest.mark.usefixtures("png_reader")
@pytest.mark.parametrize("wrong", [{"adler": 1}, {"rows": 5}], ids=str)
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_changed_or_missing_pixels_of_a_png_are_detected_despite_valid_chunks(
    bands: int, wrong: dict[str, int], tmp_path: Path
) -> None:
    pixels = RNG.integers(0, 256, (9, 14, bands)).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(png_of(pixels[..., 0] if bands == 1 else pixels, **wrong))
    for read in [read_image, read_mask] if bands == 1 else [read_image]:
        with pytest.raises(StppError, match=r"a\.png: cannot be read: damaged or truncated"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.skipif(decoding.decode_image_png_u8 is None, reason="kornia-rs is not installed")
def test_a_jpeg_with_missing_data_gives_a_note(progressive: bool, tmp_path: Path) -> None:
    Image.fromarray(photograph(96, 120, 0)).save(tmp_path / "a.jpg", quality=92, progressive=progressive)
    whole = (tmp_path / "a.jpg").read_bytes()
    assert read_image(tmp_path / "a.jpg")[1] == []
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    assert any("damaged or truncated" in note for note in read_image(tmp_path / "a.jpg")[1])


def test_a_jpeg_far_larger_than_its_pixels_need_is_not_called_damaged(tmp_path: Path) -> None:
    Image.fromarray(SMOOTH).save(tmp_path / "a.jpg", quality=92)
    whole = (tmp_path / "a.jpg").read_bytes()
    comment = b"\xff\xfe\xff\xff" + bytes(0xFFFF - 2)
    (tmp_path / "bulky.jpg").write_bytes(whole[:2] + 20 * comment + whole[2:])
    plain, bulky = read_image(tmp_path / "a.jpg"), read_image(tmp_path / "bulky.jpg")
    assert bulky[1] == plain[1] == [] and np.array_equal(bulky[0], plain[0])


def saved(folder: Path, name: str, **more: Any) -> Path:
    Image.fromarray(GREY).save(folder / name, **more)
    return folder / name


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("m.jpg", {"quality": 95}, "JPEG"),
        ("m.png", {"format": "JPEG"}, "JPEG"),
        ("m.webp", {"quality": 100}, "lossy WebP"),
        ("m.tif", {"compression": "jpeg"}, "JPEG in a TIFF"),
    ],
)
def test_a_mask_in_a_lossy_format_is_refused(name: str, more: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(
        StppError, match=rf"{name}: stored as {said}, which changes mask values; export the mask as PNG"
    ):
        read_mask(saved(tmp_path, name, **more))


@pytest.mark.parametrize(("name", "more"), [("m.webp", {"lossless": True}), ("m.tif", {"compression": "tiff_lzw"})])
def test_a_mask_in_a_lossless_format_is_read(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    assert np.array_equal(read_mask(saved(tmp_path, name, **more)), GREY)


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_a_file_of_several_pictures_is_refused(name: str, read: Callable[[Path], Any], tmp_path: Path) -> None:
    other = Image.fromarray(GREY[::-1])
    more = {} if name == "a.tif" else {"lossless": True}
    with pytest.raises(StppError, match=r"a\.\w+: contains several pictures"):
        read(saved(tmp_path, name, save_all=True, append_images=[other], **more))


def test_a_preview_in_a_tiff_is_ignored_but_must_not_come_first(tmp_path: Path) -> None:
    copy = Image.fromarray(GREY[::2, ::2])
    copy.encoderinfo = {"tiffinfo": {254: 1}}
    path = saved(tmp_path, "a.tif", save_all=True, append_images=[copy])
    assert np.array_equal(read_image(path)[0], grey_as_rgb(GREY))
    first = saved(tmp_path, "b.tif", tiffinfo={254: 1})
    with pytest.raises(StppError, match="starts with a preview"):
        read_image(first)
    raw = saved(tmp_path, "c.tif").read_bytes()
    start = struct.unpack("<I", raw[4:8])[0]
    moved = raw[:4] + struct.pack("<I", len(raw)) + b"CR" + raw[10:] + raw[start:]  # a valid TIFF, as Canon's
    (tmp_path / "c.tif").write_bytes(moved)
    with pytest.raises(StppError, match="starts with a preview"):
        read_image(tmp_path / "c.tif")


DEEP: NDArray[np.uint16] = RNG.integers(0, 65536, (9, 14, 4)).astype(np.uint16)


def written(path: Path, pixels: NDArray[Any]) -> Path:
    assert cv2.imwrite(str(path), pixels)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm"])
def test_three_bands_of_16_bits_are_scaled_with_a_note_or_refused_if_too_few_levels_remain(
    suffix: str, tmp_path: Path
) -> None:
    image, notes = read_image(written(tmp_path / f"full.{suffix}", DEEP[..., :3]))
    assert np.abs(image - DEEP[..., 2::-1] / 257).max() <= 1
    assert [note for note in notes if note.startswith("3 bands of 16 bits: scaled to 8")] == notes != []
    flat = np.full((4, 4, 3), 999, np.uint16)
    read_image(written(tmp_path / f"flat.{suffix}", flat))
    with pytest.raises(StppError, match=r"3 bands of 16 bits, but only \d+ of 256 levels .*; save it as 8-bit"):
        read_image(written(tmp_path / f"twelve.{suffix}", DEEP[..., :3] // 16))


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_a_grey_image_of_12_bits_is_refused_but_a_mask_is_not(suffix: str, tmp_path: Path) -> None:
    path = written(tmp_path / f"a.{suffix}", DEEP[..., 0] // 16)
    with pytest.raises(StppError, match=r"1 band of 16 bits, but only 1\d of 256 levels"):
        read_image(path)
    assert np.array_equal(read_mask(path), DEEP[..., 0] // 16)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({338: 0}, "4 bands of 8 bits, of which the fourth is not declared as alpha"),
        ({}, "4 bands of 8 bits, of which the fourth is not declared as alpha"),
        ({338: 2}, None),
    ],
)
def test_a_fourth_band_is_alpha_only_if_the_file_says_so(
    tags: dict[int, int], said: str | None, tmp_path: Path
) -> None:
    colours = np.concatenate([RGB, GREY[..., None]], axis=2)
    out = io.BytesIO()
    Image.fromarray(colours).save(out, format="TIFF")
    path = tmp_path / "a.tif"
    entry = struct.pack("<HHIHH", 338, 3, 1, 2, 0)
    assert out.getvalue().count(entry) == 1
    other = struct.pack("<HHIHH", 338, 3, 1, tags[338], 0) if tags else struct.pack("<HHIHH", 339, 3, 1, 1, 0)
    path.write_bytes(out.getvalue().replace(entry, other))
    if said is None:
        assert np.array_equal(read_image(path)[0], RGB)
    else:
        with pytest.raises(StppError, match=said):
            read_image(path)


@pytest.mark.parametrize("alpha", [254, 255])
def test_alpha_with_transparent_pixels_gives_a_separate_note(alpha: int, tmp_path: Path) -> None:
    opacity = np.full((9, 14, 1), 255, np.uint8)
    opacity[3, 3] = alpha
    Image.fromarray(np.concatenate([RGB, opacity], axis=2)).save(tmp_path / "a.png")
    coloured = Image.fromarray(GREY)
    coloured.putpalette(bytes(range(256)) * 3)
    coloured.save(tmp_path / "p.png", transparency=bytes([alpha] * 256))
    for name in ("a.png", "p.png"):
        assert any("transparent pixels" in note for note in read_image(tmp_path / name)[1]) == (alpha < 255)


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (DEEP[..., :3].astype(np.float32), "unsupported TIFF: 3 bands of 32 bits (floating point)"),
        (DEEP[..., 0].astype(np.float64), "unsupported TIFF: 1 band of 64 bits (floating point)"),
        (GREY.astype(np.int8), "1 band of 8 bits (signed)"),
    ],
)
def test_the_error_for_an_unsupported_tiff_describes_it(
    pixels: NDArray[Any], said: str, read: Callable[[Path], Any], tmp_path: Path
) -> None:
    with pytest.raises(StppError) as error:
        read(written(tmp_path / "a.tif", pixels))
    assert said in str(error.value)
    assert not any(word in str(error.value) for word in ("not an image", "remove", "replace"))


def test_grey_of_16_bits_where_0_is_white_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.tif")
    Image.fromarray(DEEP[..., 0]).save(path, tiffinfo={262: 0})
    with pytest.raises(StppError, match="1 band of 16 bits, where 0 is white"):
        read_image(path)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x18ftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"FUJIFILMCCD-RAW 0201", "raw photo"),
        (b"8BPS\0\1", "Photoshop"),
        (b'<?xml version="1.0"?>\n<svg xmlns=""/>', "SVG"),
    ],
)
def test_the_error_for_an_unsupported_format_names_it(start: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(start)
    with pytest.raises(StppError, match=rf"a\.jpg: {said}.* is not supported; convert it to PNG or JPEG"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_file_that_would_take_too_much_memory_is_refused_by_its_header(tmp_path: Path) -> None:
    side = 16_000
    for kind, bits in ((6, 8), (0, 16)):
        header = struct.pack(">IIBBBBB", side, side, bits, kind, 0, 0, 0)
        chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")
        path = tmp_path / f"{kind}.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*one) for one in chunks))
        with pytest.raises(StppError, match=r"too many pixels \(256000000 .* limit is 2 GB\); cut it into tiles"):
            (read_image if kind else read_mask)(path)
    with pytest.raises(StppError, match="fewer pixels than its header says"):
        read_image(path)  # grey in 16 bits would fit into memory, but the file has no pixels
