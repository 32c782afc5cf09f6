"""Trackers: the metrics of a run's journal, sent elsewhere as well; packages are imported where one is asked for."""

from tombola.core.written import Family
from tombola.trackers.base import Row, Sink, TrackedRun, Tracker
from tombola.trackers.csv import Csv
from tombola.trackers.following import Following, follow
from tombola.trackers.mlflow import MLflow
from tombola.trackers.tensorboard import TensorBoard
from tombola.trackers.trackio import Trackio
from tombola.trackers.wandb import WandB

TRACKERS: Family[Tracker] = Family(
    "tracker", {kind.name: kind() for kind in (Csv, TensorBoard, WandB, MLflow, Trackio)}, Tracker
)

__all__ = [
    "TRACKERS",
    "Csv",
    "Following",
    "MLflow",
    "Row",
    "Sink",
    "TensorBoard",
    "TrackedRun",
    "Tracker",
    "Trackio",
    "WandB",
    "follow",
]
