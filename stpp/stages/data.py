"""Command data lists: what other people publish, brought into the shape that the pipeline reads."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from stpp.files import replacing_folder, sha256, write_json, write_text

Data = Annotated[Literal["pascal", "cityscapes"], Argument(help="Data set.")]
Labels = Annotated[str, Argument(help="Setting: 92, 183, 366, 732, 1464, 1_16, 1_8, 1_4; or 1_30, 1_8, 1_4.")]
From = Annotated[Path, Option("--from", help="Folder of the published lists; holds pascal/ and cityscapes/.")]
Which = Annotated[str, Option(help="Which of the published draws.")]
Source = Annotated[str, Option(help="Where the lists come from, for the record: an address and a commit.")]
Out = Annotated[Path, Option(help="Folder of lists that DVC watches.")]


def lists(
    data: Data,
    labels: Labels,
    from_: From,
    split: Which = "split_0",
    source: Source = "",
    out: Out = Path("splits"),
) -> None:
    """Take over a published split, checked: labeled.txt, unlabeled.txt, val.txt, and source.json with their hashes."""
    from stpp.data.published import place, read_lists

    published = read_lists(from_, data, labels, split)
    name = place(data, labels, split)
    with replacing_folder(out / name) as partial:
        for which in ("labeled", "unlabeled", "val"):
            write_text(partial / f"{which}.txt", "".join(f"{line}\n" for line in getattr(published, which)))
        hashes = {f"{which}.txt": sha256(partial / f"{which}.txt") for which in ("labeled", "unlabeled", "val")}
        write_json(partial / "source.json", {"name": f"{data} {labels} {split}", "source": source, "sha256": hashes})
    counts = f"{len(published.labeled)} labelled, {len(published.unlabeled)} unlabelled, {len(published.val)} val"
    print(f"{out / name}: {counts}; `git add {out / name}` keeps them")
