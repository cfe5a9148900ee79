"""The history of a split: what its name stood for in git, and the masks that people added for it."""

from collections.abc import Iterable
from pathlib import Path

from stpp.audit.project import Project
from stpp.ingest.additions import PARENT, corrections
from stpp.run.git import git
from stpp.store.files import parse_yaml, scan_csv
from stpp.store.manifest import Dataset, read_dataset
from stpp.store.records import ParentJson, read

MANIFEST = "runs/split/manifest.csv"


def contents_of_name(project: Project, data: str, name: str) -> dict[str, str]:
    """Return the hashes (md5) of the split manifests that were committed under these names, each with a commit.

    data, name: data.name and split.name in the commit's params.yaml.
    """
    found: dict[str, str] = {}
    for commit in git("-C", str(project.root), "log", "--all", "--format=%H", "--", MANIFEST).split():
        text = project.shown(commit, "params.yaml").decode(errors="replace")
        try:
            params = parse_yaml(text)
            then = params["data"]["name"], params["split"]["name"]
        except (ValueError, KeyError, TypeError):
            continue
        if then == (data, name) and (md5 := project.md5_in(commit, MANIFEST)):
            found[md5] = commit
    return found


def added_masks(lists: Path, name: str, data: Path) -> list[str]:
    """Return lines on the masks that `stpp label add` added for a split, and for the splits that it comes from.

    lists: the folder of all splits. data: the folder that `stpp prepare` wrote. Raises StppError for a damaged file.
    """
    lines, seen, dataset = list[str](), set[str](), read_dataset(data)
    while name not in seen and (path := lists / name / PARENT).is_file():
        seen.add(name)
        about = read(path, ParentJson)
        added = about["added"]
        now = _mask_hashes(data, dataset, added)
        changed = sorted(i for i, sha256 in added.items() if now.get(i) != sha256)
        since = f"; {len(changed)} of them are other masks today, such as {changed[0]}" if changed else ""
        lines.append(f"split {name}: {len(added)} masks that {about['parent']} does not have{since}")
        lines += [f"  {line}" for line in corrections({"annotated_by": {}, "iou": {}} | about)]
        name = about["parent"]
    return lines


def _mask_hashes(folder: Path, dataset: Dataset, ids: Iterable[str]) -> dict[str, str]:
    """Return the sha256 of the mask files of some images, by id."""
    records = [dataset.records[i] for i in ids if i in dataset.records]
    if not dataset.drawn:
        return {one.id: one.mask_sha256 for one in records}
    of_file = {one.mask: one.id for one in records}
    files = scan_csv(folder / "annotations.csv", ("file", "sha256"))
    return {of_file[file]: sha256 for file, sha256 in files if file in of_file}
