"""What git remembers of a split's name."""

from stpp.audit.project import Project
from stpp.run.git import git
from stpp.store.files import parse_yaml

MANIFEST = "runs/split/manifest.csv"


def contents_of_name(project: Project, data: str, name: str) -> dict[str, str]:
    """Hashes (md5) of the split manifests that were committed under two names, each with a commit."""
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
