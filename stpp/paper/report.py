"""Reports that show the paper's tables beside measured results, as text, Markdown, CSV and HTML.

The results come from files in git.
"""

import csv
import html
import io
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

from stpp.paper import evidence
from stpp.paper.published import NETWORKS, SETTINGS, Table
from stpp.paper.results import Cell, Result
from stpp.report.grid import Grid
from stpp.report.labels import LABELS

HEADER = ("network", "labels", "system", "published", "ours", "deviation", "n", "difference", "seeds")
NOT_RUN = "not run"


@dataclass(frozen=True)
class Row:
    """A cell of the paper's table with its published and its measured mIoU on val, in %.

    published: None if the paper prints no number.
    """

    network: str
    labels: str
    system: str
    published: float | None
    ours: tuple[float, ...]
    """One number per seed; empty if the cell was not run."""

    def fields(self) -> tuple[str, ...]:
        """Return the fields that HEADER names. The deviation is that of a sample; it is empty below two seeds."""
        published = "" if self.published is None else f"{self.published:.1f}"
        if not self.ours:
            return (self.network, self.labels, self.system, published, NOT_RUN, "", "0", "", "")
        ours = mean(self.ours)
        deviation = f"{stdev(self.ours):.1f}" if len(self.ours) > 1 else ""
        difference = "" if self.published is None else f"{ours - self.published:+.1f}"
        n, seeds = str(len(self.ours)), " ".join(f"{value:.1f}" for value in self.ours)
        return (self.network, self.labels, self.system, published, f"{ours:.1f}", deviation, n, difference, seeds)


def rows(table: Table, results: dict[Cell, list[Result]]) -> list[Row]:
    """Return every cell of the paper's table, run or not, then the cells that were run on other data."""
    found = []
    settings = {setting.name: (NETWORKS[setting.network], setting.column) for setting in table.settings}
    others = dict.fromkeys(name for name, _ in results if name not in SETTINGS)
    settings |= {name: ("", name) for name in others}
    for name, (network, column) in settings.items():
        for system in table.systems:
            if name in SETTINGS and (name, system) not in table.cells:
                continue
            ours = tuple(r["metrics"]["val"][system]["miou"] for r in results.get((name, system), []))
            label = LABELS.get(system, system)
            found.append(Row(network, column, label, table.numbers.get((name, system)), ours))
    return found


def grids(table: Table, results: dict[Cell, list[Result]]) -> dict[str, list[Grid]]:
    """Return the evidence over seeds as tables, by setting."""
    settings = dict.fromkeys(name for name, _ in results)
    return {
        setting: evidence.grids(
            evidence.by_seed(r for (s, _), found in results.items() if s == setting for r in found), table.systems
        )
        for setting in settings
    }


def table_of(table: Table, found: list[Row]) -> Grid:
    """Return the rows as a table with the columns of HEADER."""
    return Grid(table.title, HEADER, [row.fields() for row in found])


def text(shown: Grid, below: dict[str, list[Grid]], notes: list[str]) -> str:
    """Return a report for a terminal.

    shown: the comparison. below: further tables by setting. notes: lines below the comparison; the first is left out.
    """
    parts = ["\n".join([shown.text(), *notes[1:]])]
    parts += [
        replace(grid, title=f"{setting}: {grid.title}").text() for setting, grids in below.items() for grid in grids
    ]
    return "\n\n".join(parts)


def markdown(shown: Grid, below: dict[str, list[Grid]], notes: list[str]) -> str:
    """Return a report as Markdown. shown, below, notes: as in `text`, but with all notes."""
    parts = [f"## {shown.title}", shown.markdown(), "\n".join(notes)]
    for setting, grids in below.items():
        parts += [f"### {setting}", *(part for grid in grids for part in (f"{grid.title}:", grid.markdown()))]
    return "\n\n".join(parts) + "\n"


def as_csv(found: list[Row]) -> str:
    """Return the rows as CSV, with HEADER as the first line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(row.fields() for row in found)
    return out.getvalue()


def as_html(shown: Grid, below: dict[str, list[Grid]], notes: list[str]) -> str:
    """Return a report as one self-contained HTML page. shown, below, notes: as in `text`, but with all notes."""
    parts = [
        f"<h1>{html.escape(shown.title)}</h1>\n{shown.html()}",
        *(f"<p>{html.escape(note)}</p>\n" for note in notes),
    ]
    for setting, grids in below.items():
        parts += [f"<h2>{html.escape(setting)}</h2>\n"]
        parts += [f"<h3>{html.escape(grid.title)}</h3>\n{grid.html()}" for grid in grids]
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(shown.title)}</title>\n'
        f"<style>{STYLE}</style>\n{''.join(parts)}</html>\n"
    )


STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}"
    "table{border-collapse:collapse}th,td{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #ddd}"
    "th{border-bottom:2px solid #333}th:nth-child(-n+3),td:nth-child(-n+3){text-align:left}"
)


def notes(results: dict[Cell, list[Result]], left_out: list[Path]) -> list[str]:
    """Return lines that explain the numbers: mean over seeds, evaluation, kept epoch, commits, and files left out."""
    every = [r for runs in results.values() for r in runs]
    lines = ["mIoU on val in %; ours is the mean over n seeds, with the sample standard deviation."]
    for key, what in (("evaluation", "Evaluated at"), ("keep", "Epoch used for labelling and evaluation:")):
        values = sorted({str(r[key]) for r in every})
        if values:
            lines.append(f"{what} {' / '.join(values)}.")
    commits = sorted({r["commit"][:12] for r in every})
    if len(commits) > 1:
        lines.append(f"The code is that of {len(commits)} commits: {', '.join(commits)}.")
    if left_out:
        files = ", ".join(path.as_posix() for path in left_out)
        differ = "parameters, overlay, weights, lists, split or data"
        lines.append(f"Left out, as their {differ} differ from the newest result of the setting: {files}.")
    return lines
