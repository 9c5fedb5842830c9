"""Pages of the docs whose tables are made of the code: Markdown, and where it stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

__all__ = ("filled", "print_or_fill", "table")


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown; a ``|`` of a cell is kept as it is."""
    lines = [tuple(heads)]
    lines += [("---",) * len(lines[0]), *map(tuple, rows)]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def filled(page: str, parts: Mapping[str, str]) -> str:
    """The page with every generated part as it is now."""
    for name, text in parts.items():
        begin, end = f"<!-- generated: {name} -->", "<!-- end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        page, count = pattern.subn(lambda _, new=f"{begin}\n{text}\n{end}": new, page)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"{begin} is there {count} times, expected once")
    return page


def print_or_fill(parts: Mapping[str, str], arguments: Sequence[str]) -> None:
    """Print the generated parts, or put them into the files that are given."""
    for name, text in () if arguments else parts.items():
        print(f"## {name}\n\n{text}\n")
    for path in map(Path, arguments):
        path.write_text(filled(path.read_text(), parts))
