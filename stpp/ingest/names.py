"""Classification of files by name: readable images, unsupported images, and stray files.

Stray files are hidden files and those that operating systems leave behind.
"""

READ = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""File endings of the image formats that can be read."""
ARRAYS = (".npy", ".mat")
"""File endings of masks that are arrays. Images may be .npy, too."""
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
"""File endings of image formats that cannot be read."""
_JUNK = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found")


def ending(name: str) -> str:
    """Return the ending of a file's name in lower case, with its dot; empty if there is none."""
    stem, dot, last = name.rpartition("/")[2].rpartition(".")
    return f".{last.lower()}" if dot and stem else ""


def is_stray(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or is left behind by an operating system."""
    return name.startswith(".") or name.lower() in _JUNK
