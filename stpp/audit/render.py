"""Reports of audits: a tree for the terminal, JSON, and one HTML page for readers who do not program."""

import base64
import html
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2

from stpp.audit.duplicates import Pair
from stpp.audit.project import ABSENT, CHANGED, VERIFIED
from stpp.audit.trace import Link, Step, problems_of, steps_of
from stpp.data.bands import picture_of
from stpp.run.lineage import Content
from stpp.store.files import printable

MARK = {VERIFIED: "ok", CHANGED: "CHANGED", ABSENT: "absent"}
SIGN = {VERIFIED: "\N{CHECK MARK}", CHANGED: "\N{MULTIPLICATION X}", ABSENT: "\N{EM DASH}"}


@dataclass
class Audit:
    """The result of the audit of one model."""

    model: str
    source: str
    """Name of the lineage source that says how the model was made."""
    link: Link
    more: list[str] = field(default_factory=list)
    """Contradictions outside the chain: in run.json files, in MLflow, in the history of the split's name."""
    notes: list[str] = field(default_factory=list)
    """What could not be checked, and why."""
    suspects: list[tuple[Pair, Path, Path]] = field(default_factory=list)
    """Pairs of a held-out and a training image that look alike, with the files of both."""
    added: list[str] = field(default_factory=list)
    """Lines on the masks that people added for the split."""

    @property
    def problems(self) -> list[str]:
        return [*problems_of(self.link), *self.more]

    @property
    def verdict(self) -> str:
        if self.problems:
            return f"{len(self.problems)} contradiction(s)"
        links = [self.link, *(one for step in steps_of(self.link) for one in (*step.code, *step.inputs, *step.outs))]
        absent = len({one.content.path for one in links if one.verdict == ABSENT})
        held_out = len({pair.held_out for pair, *_ in self.suspects})
        return (
            "no contradictions"
            + (f"; {absent} files are not here, only their hashes are known" if absent else "")
            + (f"; {held_out} held-out images look like training images" if held_out else "")
        )


def text(audit: Audit) -> str:
    """Return the report of an audit for the terminal: verdict, tree, contradictions, and what was not checked."""
    lines = [f"{audit.model}: {audit.verdict}", f"according to {audit.source}", "", *_tree(audit.link, "", set())]
    for title, entries in (
        ("contradictions", audit.problems),
        ("added masks", audit.added),
        ("not checked", audit.notes),
    ):
        if entries:
            lines += ["", f"{title}:", *(f"  {entry}" for entry in entries)]
    return "\n".join(map(printable, lines)) + "\n"


SUSPECTS = 3
"""Pairs that the terminal shows. If a camera stands still, nearly all images look alike."""


def look_alikes(audits: list[Audit]) -> str:
    """Return the number of image pairs that look alike, and the first pairs; empty if there are none.

    A pair that several audits share counts once.
    """
    pairs = {_about(*suspect): suspect[0].held_out for audit in audits for suspect in audit.suspects}
    if not pairs:
        return ""
    lines = [f"held-out images that look like training images: {len(pairs)} pairs, {len({*pairs.values()})} held out"]
    lines += [f"  {pair}" for pair in list(pairs)[:SUSPECTS]]
    if len(pairs) > SUSPECTS:
        lines.append(f"  ... and {len(pairs) - SUSPECTS} more; `stpp audit --out FOLDER` lists them all")
    return "\n".join(map(printable, lines)) + "\n"


def _tree(link: Link, indent: str, shown: set[int]) -> Iterator[str]:
    yield f"{indent}{MARK[link.verdict]:8}{link.content.path}  md5 {link.content.md5[:12]}  {link.where}{_what(link)}"
    step = link.made
    if step is None:
        return
    if id(step) in shown:
        yield f"{indent}        by {step.execution.stage} (above)"
        return
    shown.add(id(step))
    run = f"  MLflow run {step.run_id}" if step.run_id else ""
    of = run + (f"  commit {step.commit[:12]}" if step.commit else "")
    yield f"{indent}        by {step.execution.stage}{of}; {_code(step)}; parameters of {_params(step)}"
    for one in step.inputs:
        yield from _tree(one, f"{indent}    ", shown)


def _what(link: Link) -> str:
    """Return a description of what is in a file or folder; empty if it was not examined."""
    if link.made is not None:
        for out in link.made.outs:
            if out.content.path == link.content.path and out.about:
                return f"; {out.about}"
    return f"; {link.about}" if link.about else ""


def _code(step: Step) -> str:
    counts = {verdict: sum(one.verdict == verdict for one in step.code) for verdict in MARK}
    return "code: " + (", ".join(f"{n} files {MARK[v]}" for v, n in counts.items() if n) or "not recorded")


def _params(step: Step) -> str:
    edited = f" ({len(step.problems)} problem(s))" if step.problems else ""
    return (", ".join(step.execution.params) or "none") + edited


def _about(pair: Pair, *_: Path) -> str:
    return f"{pair.held_out} ({pair.held_out_set}) and {pair.trained_on} ({pair.trained_on_set})"


def as_json(audit: Audit) -> dict[str, Any]:
    """Return an audit as an object for JSON."""

    def link(one: Link) -> dict[str, Any]:
        content = one.content
        return {
            "path": content.path,
            "md5": content.md5,
            "sha256": content.sha256,
            "verdict": one.verdict,
            "where": one.where,
            "about": _what(one).removeprefix("; "),
            "made_by": one.made.execution.stage if one.made else None,
        }

    return {
        "model": audit.model,
        "verdict": audit.verdict,
        "told_by": audit.source,
        "problems": audit.problems,
        "suspects": [
            {
                "held_out": {"id": pair.held_out, "set": pair.held_out_set, "file": str(one)},
                "trained_on": {"id": pair.trained_on, "set": pair.trained_on_set, "file": str(other)},
                "difference": round(pair.difference, 2),
            }
            for pair, one, other in audit.suspects
        ],
        "added_masks": audit.added,
        "not_looked_at": audit.notes,
        "file": link(audit.link),
        "executions": [
            {
                "stage": step.execution.stage,
                "cmd": step.execution.cmd,
                "mlflow_run": step.run_id,
                "commit": step.commit,
                "params": step.execution.params,
                "deps": [link(one) for one in (*step.inputs, *step.code)],
                "outs": [link(one) for one in step.outs],
                "problems": step.problems,
            }
            for step in steps_of(audit.link)
        ],
    }


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem } h3 { font-size: 1rem; margin: 0 }
.verdict { padding: .8rem 1rem; border-left: 6px solid #0072b2; background: #eef5fb }
.verdict.bad { border-color: #d55e00; background: #fdf1e8 }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 } td, th { text-align: left; vertical-align: top;
  padding: .25rem .6rem .25rem 0; border-bottom: 1px solid #ddd } th { font-weight: 600 }
code { font: .85em ui-monospace, monospace; overflow-wrap: anywhere } .absent { color: #555 }
td:first-child { white-space: nowrap }
.changed { color: #a33f00; font-weight: 700 } section.step { border: 1px solid #ccc; border-radius: 6px;
  padding: .8rem 1rem; margin: 1rem 0 } img { max-width: 20rem; width: 100%; height: auto } figure { margin: 0 }
.pair { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0 } summary { cursor: pointer }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Content security policy: the page runs and fetches nothing, even if names of files or classes contain HTML."""


def page(audits: list[Audit]) -> str:
    """Return one HTML page for all audits, without scripts and without external resources."""
    parts = [
        "<!doctype html>\n<html lang='en'>\n<head><meta charset='utf-8'>",
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        "<meta name='viewport' content='width=device-width'><title>Audit</title>",
        f"<style>{STYLE}</style></head>\n<body>",
    ]
    for audit in audits:
        parts += [*_section(audit)]
    return "\n".join([*parts, "</body>\n</html>\n"])


def _section(audit: Audit) -> Iterator[str]:
    bad = " bad" if audit.problems else ""
    yield f"<h1>Where <code>{_e(audit.model)}</code> comes from</h1>"
    yield f"<p class='verdict{bad}'><b>{_e(audit.verdict.capitalize())}.</b> According to {_e(audit.source)}. "
    yield "Each file below was hashed again: <b>verified</b> has the hash it had when it was used or made, "
    yield "<b>changed</b> has another one, <b>absent</b> is not here, but its hash is known.</p>"
    for title, entries in (
        ("Contradictions", audit.problems),
        ("Added masks", audit.added),
        ("Not checked", audit.notes),
    ):
        if entries:
            yield f"<h2>{title}</h2><ul>{''.join(f'<li>{_e(entry)}</li>' for entry in entries)}</ul>"
    if audit.suspects:
        yield "<h2>Images that look alike</h2><p>One of each pair was held out to measure the model, the other one was "
        yield "trained on. If they show the same thing, the measured score is too high.</p>"
        for pair, one, other in audit.suspects:
            yield f"<div class='pair'>{_figure(one, pair.held_out, pair.held_out_set)}"
            yield f"{_figure(other, pair.trained_on, pair.trained_on_set)}</div>"
    yield f"<h2>The model</h2>{_table([audit.link])}"
    yield "<h2>Step by step, from the model back to the images</h2>"
    for step in steps_of(audit.link):
        execution = step.execution
        known = {"MLflow run": step.run_id, "commit": step.commit, "command": execution.cmd}
        yield f"<section class='step'><h3>{_e(execution.stage)}</h3>"
        yield "".join(f"<div>{name} <code>{_e(value)}</code></div>" for name, value in known.items() if value)
        yield f"<div>{_e(_code(step))}</div>"
        if step.problems:
            yield f"<ul class='changed'>{''.join(f'<li>{_e(problem)}</li>' for problem in step.problems)}</ul>"
        yield f"<p>Inputs</p>{_table(step.inputs)}<p>Outputs</p>{_table(step.outs)}"
        yield f"<details><summary>Parameters</summary><code>{_e(execution.params)}</code></details>"
        yield f"<details><summary>Code</summary>{_table(step.code)}</details></section>"


def _table(links: list[Link]) -> str:
    rows = "".join(
        f"<tr><td class='{one.verdict}'>{SIGN[one.verdict]} {one.verdict}</td>"
        f"<td><code>{_e(one.content.path)}</code></td>"
        f"<td>{_e(_what(one).removeprefix('; '))}</td><td>{_e(one.where)}</td>"
        f"<td><code>{_e(_hash(one.content))}</code></td></tr>"
        for one in links
    )
    titles = "".join(f"<th>{title}</th>" for title in ("", "file or folder", "what is in it", "where", "hash"))
    return f"<table><tr>{titles}</tr>{rows}</table>"


def _hash(content: Content) -> str:
    return f"sha256 {content.sha256}" if content.sha256 else f"md5 {content.md5}"


def _figure(path: Path, name: str, which: str) -> str:
    return f"<figure><img alt='' src='{_thumbnail(path)}'><figcaption>{_e(name)} ({_e(which)})</figcaption></figure>"


def _thumbnail(path: Path) -> str:
    """Return an image as a data URI (JPEG), at most 640 pixels wide and high."""
    image = cv2.cvtColor(picture_of(path), cv2.COLOR_RGB2BGR)
    factor = min(1.0, 640 / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    done, data = cv2.imencode(".jpg", cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}" if done else ""


def _e(value: Any) -> str:
    return html.escape(str(value), quote=True)
