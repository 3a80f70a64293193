"""The public sources that can be imported. A new source is a module of this package, and a line here."""

from __future__ import annotations

from pathlib import Path

from transformer.data.sources.db import DeutscheBahn
from transformer.data.sources.digitraffic import Digitraffic
from transformer.data.sources.gtfs_rt import GtfsRt
from transformer.data.sources.infrabel import Infrabel
from transformer.data.sources.istdaten import IstDaten
from transformer.data.sources.rdt import RijdenDeTreinen
from transformer.data.sources.ride import Ride
from transformer.data.sources.source import About, Source
from transformer.errors import UserError

_ALL: tuple[Source, ...] = (
    *(Ride(), Infrabel(), IstDaten(), Digitraffic(), RijdenDeTreinen(), DeutscheBahn()),
    GtfsRt(),
)
SOURCES: dict[str, Source] = {source.about.name: source for source in _ALL}


def source_named(name: str) -> Source:
    """Raises UserError for an unknown name, with the known ones."""
    if name not in SOURCES:
        raise UserError(f"source {name!r} is unknown; choose one of {', '.join(SOURCES)}")
    return SOURCES[name]


def described(about: About) -> str:
    """The facts of a source as lines for people."""
    facts = {
        "country": f"{about.country}, time zone {about.timezone}",
        "dates": about.depth,
        "a month": about.size,
        "observed": about.unobserved,
        "passing": "points that a train passes are listed" if about.pass_throughs else "stops only",
        "licence": about.licence,
        "page": about.page,
    }
    return "\n".join([f"{about.name}: {about.title}", *(f"  {name:<9} {fact}" for name, fact in facts.items())])


def recognised(folder: Path) -> Source | None:
    """The source whose raw files a folder holds, if any."""
    return next((source for source in SOURCES.values() if folder.is_dir() and source.find(folder)), None)
