"""Hyperparameter tuning: the searched space, the study, its database and its report."""
