"""A table with a title, which renders itself as text, Markdown or HTML."""

import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """A table of text: a title, a header and rows. Every row is as long as the header."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Return the title and the table for a terminal, with aligned columns."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        shown = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
        return "\n".join([self.title, *shown])

    def markdown(self) -> str:
        """Return a Markdown table without the title. `|` in the field of a row becomes `/`."""
        lines = [f"| {' | '.join(self.header)} |", "|---" * len(self.header) + "|"]
        lines += [f"| {' | '.join(field.replace('|', '/') for field in row)} |" for row in self.rows]
        return "\n".join(lines)

    def html(self) -> str:
        """Return a `<table>` element without the title. All fields are escaped."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.header)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(field)}</td>' for field in row)}</tr>\n" for row in self.rows)
        return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>\n"
