"""What a file is by its name: an image that is read, one of another kind, or what systems leave behind."""

READ = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Endings of the images that are read."""
UNREAD = (
    *(
        ".heic",
        ".heif",
        ".hif",
        ".avif",
        ".jxl",
        ".jp2",
        ".j2k",
        ".jpx",
        ".psd",
        ".psb",
        ".apng",
        ".svg",
        ".pdf",
        ".eps",
    ),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw"),
    *(".exr", ".hdr", ".tga", ".dds", ".ico", ".pcx", ".xcf", ".qoi", ".dib", ".dcm", ".fits", ".sgi", ".ecw"),
)
"""Endings of images of other kinds."""
_JUNK = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found")


def ending(name: str) -> str:
    """The ending of a file's name in small letters, with its dot; empty if there is none."""
    stem, dot, last = name.rpartition("/")[2].rpartition(".")
    return f".{last.lower()}" if dot and stem else ""


def stray(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or one that systems leave behind."""
    return name.startswith(".") or name.lower() in _JUNK
