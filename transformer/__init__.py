"""Network-wide train-delay prediction with a set transformer: data, statistics, model, training, evaluation.

This package never imports Airflow. `python -m transformer <stage>` is what every backend runs.
"""
