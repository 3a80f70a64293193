"""Event tables, their sources, the simulator, and the snapshots built from them."""
