"""Looking into a trained run, one snapshot at a time: what `notebooks/explore_snapshot.ipynb` shows."""
