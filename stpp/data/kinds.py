"""Checks of an image file's header: its format, number of pictures, bands, bits, and whether compression is lossy."""

import struct
import warnings
from collections.abc import Iterator
from io import BufferedReader

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from stpp.store.files import printable

# Pillow warns of a cut TIFF, and then raises or stops, which is reported.
warnings.filterwarnings("ignore", "Truncated File Read|Corrupt EXIF data", UserWarning, "PIL.TiffImagePlugin")

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")

HEAD = 512
"""Number of bytes at the start of a file that are enough to tell its format."""
_FIRST = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"8BPS": "Photoshop picture",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"v/1\x01": "OpenEXR picture",
    b"#?RADIANCE": "Radiance picture",
    b"FUJIFILMCCD-RAW": "raw photo",
    b"IIRO": "raw photo",
    b"IIU\0": "raw photo",
    b"qoif": "QOI picture",
    b"DDS ": "DDS picture",
}
_BRANDS = {"avif": "AVIF", "avis": "AVIF", "crx ": "raw photo"} | dict.fromkeys(
    ("heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"), "HEIF (HEIC)"
)

# TIFF: numbers of tags; bands by photometric interpretation (COLOURS); compressions that change values (LOSSY).
WIDTH, BITS, COMPRESSION, PHOTOMETRIC, BANDS, EXTRA, SAMPLES = 256, 258, 259, 262, 277, 338, 339
SUBFILE, OLD_SUBFILE = 254, 255
SMALLER = 64
"""From this number on, a page of a TIFF cannot be a smaller copy of the first page.

Each copy is half as large as the one before, so there cannot be so many.
"""
PAGES = 10_000
"""The most pages of a mask file of one class."""
COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, 6: 3, 8: 3}
LOSSY = {6: "JPEG", 7: "JPEG", 34712: "JPEG 2000", 34887: "LERC", 34892: "JPEG", 50001: "WebP"}
PREVIEW = "starts with a preview, like a raw photo; convert it to PNG or JPEG"
NUMBERS = {1: "", 2: " (signed)", 3: " (floating point)"}


def kind_of(start: bytes) -> str:
    """Return the name of the format of a file that begins with these bytes; "" if the format is not known.

    start: the first HEAD bytes of the file, or all of them if it is shorter.
    """
    if start[4:8] == b"ftyp":
        return _BRANDS.get(start[8:12].decode("latin-1"), "")
    if start[8:10] == b"CR" and start.startswith((b"II*\0", b"MM\0*")):
        return "raw photo"
    if start.startswith(b"RIFF"):
        return "WebP" if start[8:12] == b"WEBP" else ""
    if start[128:132] == b"DICM":
        return "DICOM picture"
    if start.lstrip().startswith((b"<svg", b"<?xml", b"<!--")) and b"<svg" in start:
        return "SVG"
    return next((kind for first, kind in _FIRST.items() if start.startswith(first)), "")


def unidentified(file: BufferedReader) -> str:
    """Return a text that says what a file is that Pillow cannot open, and what to do with it."""
    file.seek(0)
    kind = kind_of(file.read(HEAD))
    if kind == "TIFF" and (page := next(pages(file), None)) is not None and WIDTH in page:
        what = f"unsupported TIFF: {depth(page)}, compression {_numbers(page, COMPRESSION, 1)[0]}"
        return f"{what}; give data.bands and data.range (of a mask: convert it to 8-bit grey), and keep the original"
    if kind in ("PNG", "JPEG", "GIF", "TIFF", "WebP"):
        return f"cannot be read: damaged or truncated {kind}; replace it with an intact copy"
    if kind:
        return f"{kind} is not supported; convert it to PNG or JPEG (a mask to PNG)"
    return f"not an image in a supported format ({', '.join(FORMATS)}); replace it, or move it away"


def pages(file: BufferedReader) -> Iterator[ImageFileDirectory_v2]:
    """Yield the tags of every picture in a TIFF; stop without an error where the file is damaged.

    The last page then has a `next` below 0. The file's position, which Pillow relies on, is restored at the end.
    """
    at, seen = file.tell(), set()
    try:
        file.seek(0)
        start = file.read(8)
        page = ImageFileDirectory_v2(start + (file.read(8) if start[2:3] == b"+" or start[3:4] == b"+" else b""))
        while page.next > 0 and page.next not in seen:
            seen.add(page.next)
            file.seek(page.next)
            page.next = -1
            page.load(file)
            yield page
    except (OSError, SyntaxError, ValueError, struct.error, OverflowError):
        return
    finally:
        file.seek(at)


def _numbers(page: ImageFileDirectory_v2, tag: int, default: int) -> tuple[int, ...]:
    value = page.get(tag)
    found = value if isinstance(value, tuple) else (value,)
    return tuple(one for one in found if isinstance(one, int)) or (default,)


def depth(page: ImageFileDirectory_v2) -> str:
    """Return the bands and bits of a picture in a TIFF as text, such as "3 bands of 16 bits"."""
    kind = NUMBERS.get(_numbers(page, SAMPLES, 1)[0], "")
    return f"{bands(_numbers(page, BANDS, 1)[0])} of {max(_numbers(page, BITS, 1))} bits{kind}"


def bands(count: int) -> str:
    return f"{count} bands" if count != 1 else "1 band"


def why_not_one_picture(header: Image.Image, file: BufferedReader) -> str:
    """Return why a file cannot be read as one grey or colour picture, and what to do; "" if it can."""
    if header.format == "TIFF":
        at = file.tell()
        file.seek(0)
        raw = kind_of(file.read(HEAD)) == "raw photo"
        file.seek(at)
        if raw:
            return PREVIEW
        return next((why for number, page in enumerate(pages(file)) if (why := odd_page(page, number))), "")
    # MPO is allowed: a JPEG may carry a preview or a depth map behind its photo.
    animated = header.format != "MPO" and getattr(header, "is_animated", False)
    return "contains several pictures (an animation); save the right one as PNG" if animated else ""


def whole_pages(file: BufferedReader) -> list[int]:
    """Return the numbers of the pages in a TIFF, from 0, without smaller copies of others.

    Of more than PAGES pages, one beyond that number is returned. Raises ValueError for a damaged file.
    """
    found: list[int] = []
    for number, page in enumerate(pages(file)):
        if len(found) > PAGES:
            break
        if page.next < 0:
            raise ValueError(f"page {number + 1} is cut")
        found += [] if _is_small(page) else [number]
    return found


def _is_small(page: ImageFileDirectory_v2) -> bool:
    """Return whether a page is a smaller copy of another one, or says which of its pixels are transparent."""
    return bool(_numbers(page, SUBFILE, 0)[0] & 5 or _numbers(page, OLD_SUBFILE, 0)[0] == 2)


def odd_page(page: ImageFileDirectory_v2, number: int) -> str:
    """Return the same text as `why_not_one_picture` for one page of a TIFF.

    number: 0 for the first page. Other pages may only be smaller copies of the first, or masks.
    """
    small = _is_small(page)
    if number:
        return "" if small and number < SMALLER else "contains several pictures (pages); save each as a separate file"
    colours = _numbers(page, PHOTOMETRIC, 1)[0]
    count, base, most = _numbers(page, BANDS, 1)[0], COLOURS.get(colours, 1), max(_numbers(page, BITS, 1))
    why = ""
    if small:
        why = PREVIEW
    elif count - base > 1 or (count - base == 1 and _numbers(page, EXTRA, 0) not in ((1,), (2,))):
        which = {2: "second", 4: "fourth", 5: "fifth"}[base + 1]
        why = f"{depth(page)}, of which the {which} is not declared as alpha; name the bands to read in data.bands"
    elif 2 in _numbers(page, SAMPLES, 1) and most == 8:
        why = f"{depth(page)}; save it as unsigned 8-bit"
    elif colours == 0 and most > 8:
        why = f"{depth(page)}, where 0 is white; save it as 8-bit with 0 as black"
    return why


def stored_page(file: BufferedReader) -> ImageFileDirectory_v2 | None:
    """Return the tags of a TIFF's picture if Pillow does not give its values unchanged; None if it does, or may not."""
    page = next(pages(file), None)
    if page is None or _numbers(page, PHOTOMETRIC, 1)[0] not in (1, 2) or page.get(COMPRESSION) in LOSSY:
        return None
    bits, count = max(_numbers(page, BITS, 1)), _numbers(page, BANDS, 1)[0]
    unsigned = {*_numbers(page, SAMPLES, 1)} == {1}
    plain = bits == 8 and count - COLOURS[_numbers(page, PHOTOMETRIC, 1)[0]] in (0, 1) and EXTRA not in page
    return None if bits < 8 or (unsigned and (plain or (bits == 16 and count == 1))) else page


def why_not_stored(page: ImageFileDirectory_v2, file: BufferedReader) -> str:
    """Return why a TIFF cannot be read as one image of any bands, and what to do; "" if it can."""
    small = (_is_small(one) for one in pages(file))
    if next(small, False):
        return PREVIEW
    if not all(small):
        return "contains several pictures (pages); save each as a separate file"
    if (turned := _numbers(page, 274, 1)[0]) != 1:
        return f"is stored turned (orientation {turned}); save it upright"
    return ""


def size_of(page: ImageFileDirectory_v2) -> int:
    """Return the bytes that the values of a picture in a TIFF take."""
    return (
        _numbers(page, WIDTH, 0)[0]
        * _numbers(page, 257, 0)[0]
        * _numbers(page, BANDS, 1)[0]
        * -(-max(_numbers(page, BITS, 1)) // 8)
    )


def colours_of(page: ImageFileDirectory_v2) -> int:
    """Return how many of the bands in a TIFF are a picture: 1 or 3, beside which there is at most alpha; else 0."""
    count, base = _numbers(page, BANDS, 1)[0], COLOURS[_numbers(page, PHOTOMETRIC, 1)[0]]
    alpha = count - base == 1 and _numbers(page, EXTRA, 0)[0] in (1, 2)
    return base if count == base or alpha else 0


def declared_nodata(file: BufferedReader) -> str:
    """Return the value that a GeoTIFF declares as no data (GDAL_NODATA), as it is written; "" if there is none."""
    page = next(pages(file), None)
    value = page.get(42113, "") if page else ""
    return printable(value.strip()[:20]) if isinstance(value, str) else ""


def bands_of_16_bits(header: Image.Image, file: BufferedReader) -> int:
    """Return how many bands of 16 bits a TIFF, PNG or PPM has; 0 if it has fewer bits or another format.

    Pillow reads several such bands as 8 bits.
    """
    if header.format == "TIFF":
        page = header.tag_v2  # type: ignore[attr-defined]
        return _numbers(page, BANDS, 1)[0] if max(_numbers(page, BITS, 1)) == 16 else 0
    if header.format == "PNG":
        at = file.tell()
        file.seek(24)
        bits, kind = file.read(2)
        file.seek(at)
        return {2: 3, 4: 2, 6: 4}.get(kind, 1) if bits == 16 else 0
    args = header.tile[0].args if header.format == "PPM" and header.mode == "RGB" else None  # type: ignore[attr-defined]
    return 3 if isinstance(args, tuple) and isinstance(args[-1], int) and args[-1] > 255 else 0


def lossy_compression(header: Image.Image, file: BufferedReader) -> str:
    """Return the name of a file's compression if it changes values (lossy), else ""."""
    if header.format in ("JPEG", "MPO"):
        return "JPEG"
    if header.format == "TIFF":
        compression = LOSSY.get(_numbers(header.tag_v2, COMPRESSION, 1)[0])  # type: ignore[attr-defined]
        return f"{compression} in a TIFF" if compression else ""
    if header.format != "WEBP":
        return ""
    at, place = file.tell(), 12
    kind = b"VP8 "
    while place < 2**31:  # the picture is a chunk of one of these kinds; all other chunks come before it
        file.seek(place)
        head = file.read(8)
        if len(head) < 8 or head[:4] in (b"VP8 ", b"VP8L", b"ANMF"):
            kind = head[:4] or kind
            break
        size = int.from_bytes(head[4:], "little")
        place += 8 + size + size % 2
    file.seek(at)
    return "" if kind in (b"VP8L", b"ANMF") else "lossy WebP"  # an animation is refused elsewhere


def changes_grey_values(start: bytes, image: Image.Image) -> bool:
    """Return whether Pillow changes the values of a grey file.

    Pillow stretches values to the range of its mode, or inverts them where 0 is white. start: the file's first bytes.
    """
    if start.startswith(b"\x89PNG"):
        return start[24] in (2, 4) and start[25] == 0
    if image.format == "PPM":
        args = image.tile[0].args  # type: ignore[attr-defined]
        return image.mode == "1" or (isinstance(args, tuple) and args[1] not in (255, 65535))
    if image.format == "TIFF":
        bits, photometric = (image.tag_v2.get(tag) for tag in (258, 262))  # type: ignore[attr-defined]
        return bits in ((2,), (4,)) or photometric == 0
    return False
