"""The contents that a split's name had in the git history."""

from stpp.audit.project import Project
from stpp.run.git import git
from stpp.store.files import parse_yaml

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
