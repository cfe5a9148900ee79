"""Tables of the paper beside what was measured: rows from files in git, as Markdown, CSV and HTML."""

import csv
import html
import io
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from stpp.paper.published import NETWORKS, SETTINGS, Table
from stpp.paper.results import Cell, Result
from stpp.report.labels import LABELS
from stpp.report.statistics import paired

HEADER = ("network", "labels", "system", "published", "ours", "deviation", "n", "difference", "seeds")
NOT_RUN = "not run"


@dataclass(frozen=True)
class Row:
    """A cell of the paper's table; mIoU on val in %, None where the paper prints no number."""

    network: str
    labels: str
    system: str
    published: float | None
    ours: tuple[float, ...]
    """One number a seed; empty where it was not run."""

    def fields(self) -> tuple[str, ...]:
        """As HEADER names them. Deviation is that of a sample, from two seeds on."""
        published = "" if self.published is None else f"{self.published:.1f}"
        if not self.ours:
            return (self.network, self.labels, self.system, published, NOT_RUN, "", "0", "", "")
        ours = mean(self.ours)
        deviation = f"{stdev(self.ours):.1f}" if len(self.ours) > 1 else ""
        difference = "" if self.published is None else f"{ours - self.published:+.1f}"
        n, seeds = str(len(self.ours)), " ".join(f"{value:.1f}" for value in self.ours)
        return (self.network, self.labels, self.system, published, f"{ours:.1f}", deviation, n, difference, seeds)


def rows(table: Table, results: dict[Cell, list[Result]]) -> list[Row]:
    """Every cell of the paper's table, run or not, then what was run of it on other data."""
    found = []
    settings = {setting.name: (NETWORKS[setting.network], setting.column) for setting in table.settings}
    others = dict.fromkeys(name for name, _ in results if name not in SETTINGS)
    settings |= {name: ("", name) for name in others}
    for name, (network, column) in settings.items():
        for system in table.systems:
            if name in SETTINGS and not _prints(table, name, system):
                continue
            ours = tuple(100 * r["metrics"]["val"][system]["miou"] for r in results.get((name, system), []))
            label = LABELS.get(system, system)
            found.append(Row(network, column, label, table.numbers.get((name, system)), ours))
    return found


def paired_lines(table: Table, results: dict[Cell, list[Result]]) -> list[str]:
    """Of every setting, how far a system is above the table's first and above the one before it, seed by seed."""
    lines = []
    for setting in dict.fromkeys(name for name, _ in results):
        values = {
            system: {r["seed"]: 100 * r["metrics"]["val"][system]["miou"] for r in results.get((setting, system), [])}
            for system in table.systems
        }
        systems = [system for system, by_seed in values.items() if len(by_seed) > 1]
        pairs = [(a, b) for i, b in enumerate(systems) for a in dict.fromkeys((systems[0], systems[i - 1])) if i]
        for first, second in pairs:
            seeds = sorted(values[first].keys() & values[second].keys())
            if len(seeds) < 2:
                continue
            found = paired(*([values[one][seed] for seed in seeds] for one in (first, second)))
            said = {1: "above", 0: "neither above nor below", -1: "below"}[found.sign]
            lines.append(
                f"{setting}: {LABELS.get(second, second)} is {said} {LABELS.get(first, first)}: {found.mean:+.1f} "
                f"({found.low:+.1f} to {found.high:+.1f}) over {len(seeds)} seeds"
            )
    return [*lines, "In brackets: 95 % of the mean difference, by Student's t over the seeds' pairs."] if lines else []


def _prints(table: Table, setting: str, system: str) -> bool:
    """Whether the table has this cell: all of its systems, where the paper plots them without numbers."""
    return (setting, system) in table.numbers or all(of != system for _, of in table.numbers)


def text(title: str, found: list[Row]) -> str:
    """For a terminal."""
    lines = [tuple(HEADER), *(row.fields() for row in found)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    return "\n".join([title, *("  ".join(c.ljust(w) for c, w in zip(x, widths, strict=True)).rstrip() for x in lines)])


def markdown(title: str, found: list[Row], notes: list[str]) -> str:
    lines = [f"## {title}", "", f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    lines += [f"| {' | '.join(field.replace('|', '/') for field in row.fields())} |" for row in found]
    return "\n".join([*lines, "", *notes]) + "\n"


def as_csv(found: list[Row]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(row.fields() for row in found)
    return out.getvalue()


def as_html(title: str, found: list[Row], notes: list[str]) -> str:
    """One page that needs nothing else."""
    head = "".join(f"<th>{name}</th>" for name in HEADER)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(field)}</td>" for field in row.fields()) + "</tr>\n" for row in found
    )
    about = "".join(f"<p>{html.escape(note)}</p>\n" for note in notes)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n<h1>{html.escape(title)}</h1>\n"
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>\n{about}</html>\n"
    )


STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}"
    "table{border-collapse:collapse}th,td{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #ddd}"
    "th{border-bottom:2px solid #333}th:nth-child(-n+3),td:nth-child(-n+3){text-align:left}"
)


def notes(results: dict[Cell, list[Result]], left_out: list[Path]) -> list[str]:
    """How the numbers came about: evaluation, the epoch kept, seeds; and which files do not count."""
    every = [r for runs in results.values() for r in runs]
    lines = ["mIoU on val in %; ours is the mean over n seeds, with the deviation of a sample."]
    for key, what in (("evaluation", "Evaluated at"), ("keep", "Epoch that labels and is evaluated:")):
        values = sorted({str(r[key]) for r in every})
        if values:
            lines.append(f"{what} {' / '.join(values)}.")
    commits = sorted({r["commit"][:12] for r in every})
    if len(commits) > 1:
        lines.append(f"The code is that of {len(commits)} commits: {', '.join(commits)}.")
    if left_out:
        files = ", ".join(path.as_posix() for path in left_out)
        differ = "parameters, overlay, weights, lists, split or data"
        lines.append(f"Left out, of other {differ} than the newest of the setting: {files}.")
    return lines
