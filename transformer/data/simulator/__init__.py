"""A railway that does not exist: the sample data of `make train`, of the tests and of scale measurements.

`railway` lays out points and lines, `timetable` plans the journeys, `disturbances` draws what goes wrong, `traffic`
plays a service date, `records` says what is observed of it, `dataset` writes it all.
"""

from transformer.data.simulator.dataset import simulate
from transformer.data.simulator.settings import SimulationConfig

__all__ = ["SimulationConfig", "simulate"]
