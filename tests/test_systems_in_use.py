"""Which systems DVC reads."""

from pathlib import Path

import pytest
from small import Project

from stpp.run.pipelines import ALL, drop, in_use, systems, title, use, using
from stpp.store.files import StppError


@pytest.fixture
def folder(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project.folder)
    return project.folder


def read_by_dvc(project: Project) -> set[str]:
    """Return the systems whose stages DVC lists."""
    lines = project.run("dvc", "stage", "list", "--all", "--name-only").splitlines()
    return {line.split("/")[1] for line in lines if line.startswith("pipelines/")} - {"toy"}


def test_dvc_reads_the_systems_in_use_and_no_others(project: Project) -> None:
    assert read_by_dvc(project) == set()
    project.run("stpp", "system", "use", "st")
    assert read_by_dvc(project) == {"st"}
    project.run("stpp", "system", "use", "--all")
    assert "* figures" in project.run("stpp", "system", "list")
    assert "read by ablation, figures, plain" in project.run("stpp", "system", "drop", "st", rc=2)
    project.run("stpp", "system", "drop", "--all")
    assert read_by_dvc(project) == set()
    assert "give names" in project.run("stpp", "system", "use", rc=2)


def test_a_system_brings_those_whose_outs_it_reads(folder: Path) -> None:
    assert set(use(["figures"])) == {"figures", *in_use()} >= {"figures", "st", "plain", "suponly", "ablation"}
    assert use(["st"]) == []


def test_use_and_drop_leave_the_rest_of_the_file_as_it_was(folder: Path) -> None:
    before = (folder / ".dvcignore").read_text()
    use(["st", "online"])
    with (folder / ".dvcignore").open("a") as file:
        file.write("mine\n")
    drop(["st", "online"])
    assert (folder / ".dvcignore").read_text() == before + "mine\n"


def test_a_wrong_name_changes_nothing(folder: Path) -> None:
    before = (folder / ".dvcignore").read_text()
    for call, names, said in (
        (use, ["st", "../st"], "no such system"),
        (use, ["toy"], "no such system"),
        (drop, ["st"], "not in use"),
    ):
        with pytest.raises(StppError, match=said):
            call(names)
    assert (folder / ".dvcignore").read_text() == before


def test_systems_for_a_while_are_taken_back_unless_the_file_was_edited(folder: Path) -> None:
    path = folder / ".dvcignore"
    before = path.read_text()
    with pytest.raises(KeyboardInterrupt), using(["blind"]):
        assert in_use() == ["blind"]
        raise KeyboardInterrupt
    assert path.read_text() == before
    with using(["blind"]):
        path.write_text(before + "mine\n")
    assert path.read_text() == before + "mine\n"


def test_without_the_line_that_leaves_all_out_all_are_in_use(folder: Path) -> None:
    path = folder / ".dvcignore"
    path.write_text(path.read_text().replace(ALL + "\n", ""))
    assert in_use() == systems()
    with pytest.raises(StppError, match="so DVC reads all systems"):
        drop(["st"])
    assert all(map(title, systems()))
