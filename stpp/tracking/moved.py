"""Repair of the MLflow database in a project that was copied or moved.

The database names artifacts by absolute paths, which still point to the former place.
"""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote

FOLDER = "mlartifacts"
NAMED = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
"""Columns of MLflow's tables that hold locations of artifacts."""


def foreign_root(location: str, root: Path) -> str | None:
    """Return the root (file:///...) of the other project in whose mlartifacts/ a location lies, or None."""
    other, found, _ = location.rpartition(f"/{FOLDER}/")
    if not found or not other.startswith("file:///") or other == root.as_uri():
        return None
    with suppress(OSError):  # the other project may be gone, or belong to another user
        if Path(unquote(other.removeprefix("file://"))).samefile(root):
            return None
    return other


def foreign_roots(database: Path, root: Path) -> list[str]:
    """Return the roots (file:///...) of other projects whose artifacts a project's database names."""
    with closing(sqlite3.connect(database, timeout=30)) as db:
        if not any(row[1] == "artifact_location" for row in db.execute("PRAGMA table_info(experiments)")):
            return []
        places = [place for (place,) in db.execute("SELECT artifact_location FROM experiments") if place]
    return sorted({other for place in places if (other := foreign_root(place, root))})


def repair_locations(database: Path, root: Path) -> list[Path]:
    """Change locations of artifacts in other projects to this project's mlartifacts/, and return the other projects.

    All changes are made in one transaction. A second call finds nothing to change.
    """
    elsewhere = foreign_roots(database, root)
    with closing(sqlite3.connect(database, timeout=30)) as db, db:
        columns = {table: {row[1] for row in db.execute(f"PRAGMA table_info({table})")} for table in NAMED}
        for other in elsewhere:
            old, new = f"{other}/{FOLDER}/", f"{root.as_uri()}/{FOLDER}/"
            for table, column in ((t, c) for t, names in NAMED.items() for c in names if c in columns[t]):
                moved = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
                db.execute(moved, (new, len(old) + 1, len(old), old))
    return [Path(unquote(other.removeprefix("file://"))) for other in elsewhere]
