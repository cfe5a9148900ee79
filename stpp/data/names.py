"""What a file is by its name: an image that is read, one of another kind, or what systems leave behind."""

READ = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".gif")
"""Endings of the images that are read."""
UNREAD = (
    *(".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jpx", ".jfif", ".jpe", ".mpo", ".psd", ".psb"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw"),
    *(".svg", ".pdf", ".eps", ".ai", ".exr", ".hdr", ".tga", ".dds", ".ico", ".pcx", ".xcf", ".qoi", ".apng", ".dib"),
    *(".pnm", ".pam", ".dcm", ".btf", ".fits", ".fit", ".sgi", ".webm", ".ecw", ".sid", ".img", ".bigtiff"),
)
"""Endings of images of other kinds, or that are spelled in another way."""
_JUNK = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found")


def ending(name: str) -> str:
    """The ending of a file's name in small letters, with its dot; empty if there is none."""
    stem, dot, last = name.rpartition("/")[2].rpartition(".")
    return f".{last.lower()}" if dot and stem else ""


def stray(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or one that systems leave behind."""
    return name.startswith(".") or name.lower() in _JUNK
