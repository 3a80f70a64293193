"""Why an importer leaves a row of a public source out, or changes what it reads. `docs/data-quality.md` shows all."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from transformer.data.reasons import Reason

# A row counts under the first reason that applies.
LEFT_OUT: Mapping[str, Reason] = MappingProxyType(
    {
        "truncated_line": Reason("a line of the file is cut off, mostly the last one", "download the file again"),
        "unreadable_file": Reason(
            "a whole file is empty, cut off or not of this format, and the files next to it are sound; a line names it",
            "download the file again",
        ),
        "bad_service_date": Reason("the service date is missing or cannot be read", "report the row to the source"),
        "bad_train_number": Reason("the train has no number that can be read", "report the row to the source"),
        "bad_point_number": Reason("the point has no id that can be read", "report the row to the source"),
        "bad_time": Reason(
            "a time cannot be read, or lies more than seven days from the service date", "report the row to the source"
        ),
        "no_planned_time": Reason("there is no planned time, so the row is no event of the timetable", "none"),
        "outside_dates": Reason(
            "the service date is none of the imported ones; its own file has it", "import its month too"
        ),
        "duplicate": Reason("the same train has the same planned times at the same point in an earlier row", "none"),
        "no_train": Reason("a bus, a tram, a freight train or empty stock, and not a passenger train", "none"),
        "repeated_service": Reason(
            "all planned times of the train are also those of another service of the date, because coupled and "
            "renumbered trains are recorded several times",
            "none",
        ),
        "re_routed": Reason(
            "the planned times of the train go back in the order of its stops, as after a diversion; the whole train "
            "is left out",
            "none",
        ),
        "additional_stop": Reason("the stop was added to the route, and its planned time is made up", "none"),
        "no_timetable": Reason(
            "the timetable has neither the trip nor its route", "import with the timetable that was valid on the date"
        ),
        "other_stop": Reason("the timetable of the trip has no such stop", "none"),
        "skipped_unplanned": Reason(
            "the recording skips the stop, and no timetable says whether the train was to stop there or to pass",
            "import with the timetable that was valid on the date",
        ),
        "unknown_mode": Reason("the source does not say whether it is a train", "report the row to the source"),
    }
)
CHANGED: Mapping[str, Reason] = MappingProxyType(
    {
        "never_reported": Reason(
            "the delay is zero, and the train or the point has no other delay in the file, so that zero may mean "
            '"never reported"; the time is taken as not observed',
            "`--keep-zeros` keeps such times",
        ),
        "forecast": Reason(
            "the time is a forecast and not a measured one; it is taken as not observed",
            "in files that you record, record the changes until the trains have arrived",
        ),
        "whole_day": Reason(
            "a predicted time or a delay was wrong by a day, as some feeds write it after midnight", "none"
        ),
        "far_time": Reason(
            "a predicted time lies more than a day from the planned one; it is taken as not observed", "none"
        ),
    }
)
