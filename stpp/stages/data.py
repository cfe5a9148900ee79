"""The commands `data import` and `data lists`: bring published data sets and splits into the pipeline's layout."""

from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from stpp.ingest.archives import import_archive
from stpp.ingest.published import lists_folder, read_lists
from stpp.store.files import StppError, atomic_folder, read_json, sha256, write_json, write_text

Archive = Annotated[Path, Argument(help="Archive (tar, zip) or unpacked folder, as it was downloaded.")]
Root = Annotated[Path, Option(help="Folder of the data set, for data.root.")]
Data = Annotated[Literal["pascal", "cityscapes"], Argument(help="Data set.")]
Labels = Annotated[
    str, Argument(help="Labelled part: 92, 183, 366, 732, 1464, 1_16, 1_8, 1_4 (pascal); 1_30, 1_8, 1_4 (cityscapes).")
]
From = Annotated[Path, Option("--from", help="Folder of the published lists; holds pascal/ and cityscapes/.")]
Which = Annotated[str, Option(help="Which of the published draws.")]
Source = Annotated[str, Option(help="Where the lists come from, for the record: an address and a commit.")]
Out = Annotated[Path, Option(help="Folder of lists that DVC watches.")]


def import_(archive: Archive, out: Root) -> None:
    """Lay out a published archive, or any images and masks, below a folder.

    The archives of VOC 2012, SBD and Cityscapes are recognised. A data set may
    need several archives, in this order: VOC, then SBD or SegmentationClassAug;
    leftImg8bit, then gtFine. imported.json records the hash of every archive,
    and how many of its files were taken and left out.
    """
    record = out / "imported.json"
    _recorded(record)
    found = import_archive(archive, out)
    about = {"archive": found.source, "sha256": found.sha256, "files": found.counts, "left_out": found.left_out}
    # Archives are told apart by their hash, so an earlier archive of the same name keeps its entry.
    earlier = [one for one in _recorded(record) if one["sha256"] != found.sha256]
    write_json(record, [*earlier, about])
    for warning in found.warnings:
        print(f"warning: {warning}")
    counts = ", ".join(f"{count} {what}" for what, count in found.counts.items())
    print(f"{out}: {counts}; {found.left_out} other files left out")
    print(
        f"next: `dvc add {out}` to store it; set data.root: {out} in params.yaml; `dvc repro prepare` checks every file"
    )


def _recorded(record: Path) -> list[dict[str, Any]]:
    """Return the entries of imported.json, one for each archive. Raises StppError if it is another kind of file."""
    before = read_json(record) if record.exists() else []
    if not isinstance(before, list) or not all(isinstance(one, dict) and "sha256" in one for one in before):
        raise StppError(f"{record}: not the record of an import; move it away, or import into another folder")
    return before


def lists(
    data: Data,
    labels: Labels,
    from_: From,
    source: Source,
    split: Which = "split_0",
    out: Out = Path("splits"),
) -> None:
    """Check a published split, and copy its lists.

    The check covers the numbers of images, images listed twice, and images in
    two lists. The command writes labeled.txt, unlabeled.txt, val.txt, and
    source.json with their source and hashes.
    """
    if not source.strip():
        raise StppError("--source: empty; say where the lists come from (an address and a commit)")
    published = read_lists(from_, data, labels, split)
    name = lists_folder(data, labels, split)
    with atomic_folder(out / name) as partial:
        for which in ("labeled", "unlabeled", "val"):
            write_text(partial / f"{which}.txt", "".join(f"{line}\n" for line in getattr(published, which)))
        hashes = {f"{which}.txt": sha256(partial / f"{which}.txt") for which in ("labeled", "unlabeled", "val")}
        write_json(partial / "source.json", {"name": f"{data} {labels} {split}", "source": source, "sha256": hashes})
    counts = f"{len(published.labeled)} labelled, {len(published.unlabeled)} unlabelled, {len(published.val)} val"
    print(f"{out / name}: {counts}; `git add {out / name}` keeps them")
