"""`sources.json` of a data folder: where its tables come from, and under which licence.

The file travels with the data. The report of an evaluation and the card of a registered model repeat its lines.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformer.data.dates import format_dates, parse_dates
from transformer.errors import UserError
from transformer.files import read_json, write_json

if TYPE_CHECKING:
    from transformer.data.sources.source import About

log = logging.getLogger(__name__)

NAME = "sources.json"


def attribution_path(folder: Path) -> Path:
    return folder / NAME


def read_attribution(folder: Path) -> dict[str, dict[str, Any]]:
    """Title, licence, page, time zone and imported dates per source; empty if the data come from no importer.

    Raises:
        UserError: the file is damaged.
    """
    path = attribution_path(folder)
    if not path.is_file():
        return {}
    found = read_json(path)
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise UserError(f"{path} does not come from an import; remove it and import again")
    return found


def licences(folder: Path) -> dict[str, str]:
    """The licence of each source of the data in a folder, by the title of the source."""
    found = read_attribution(folder)
    return {str(entry.get("title", name)): str(entry.get("licence", "")) for name, entry in found.items()}


def licence_lines(folder: Path) -> list[str]:
    """One line per source of the data in a folder."""
    return [f"{title}: {licence}" for title, licence in licences(folder).items()]


def imported_dates(folder: Path, source: str) -> tuple[date, ...]:
    """The service dates that a folder has from a source, sorted, also those on which no train ran."""
    entries = read_attribution(folder).get(source, {}).get("dates", [])
    return parse_dates(entries, f"{attribution_path(folder)}: {source}")


def warn_of_other_zone(folder: Path, timezone: str) -> None:
    """Log a warning if a source of the data is in another time zone than the configuration."""
    zones = {str(entry.get("timezone", timezone)) for entry in read_attribution(folder).values()} - {timezone}
    if zones:
        log.warning(
            "data.timezone=%s, but %s says %s: set data.timezone, or the hours of days and grids are another country's",
            timezone,
            attribution_path(folder),
            ", ".join(sorted(zones)),
        )


def note_import(folder: Path, about: About, days: Sequence[date]) -> None:
    """Add a source and its imported service dates."""
    found = read_attribution(folder)
    found[about.name] = {
        "title": about.title,
        "licence": about.licence,
        "page": about.page,
        "timezone": about.timezone,
        "dates": format_dates(sorted({*imported_dates(folder, about.name), *days})),
    }
    write_json(attribution_path(folder), dict(sorted(found.items())))
