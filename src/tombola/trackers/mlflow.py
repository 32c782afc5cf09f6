"""MLflow."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tombola.core.parts import option
from tombola.trackers.base import Row, TrackedRun, Tracker, by_stage, flat

# Parameters that MLflow takes at a time, and their longest value.
PARAMETERS, LONGEST = 100, 500


@dataclass(frozen=True)
class MLflow(Tracker):
    """MLflow, of whose experiments each run is one run."""

    name: ClassVar[str] = "mlflow"
    packages: ClassVar[tuple[str, ...]] = ("mlflow",)
    extra: ClassVar[str] = "mlflow"
    experiment: str = option("tombola", "experiment of the runs")
    uri: str | None = option(
        None, "tracking server, in brackets: mlflow:uri=[http://host:5000]", unset="MLFLOW_TRACKING_URI"
    )

    def open(self, run: TrackedRun) -> "MLflowSink":
        """Return a run of the experiment, the same as before where there was one."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        client = MlflowClient(tracking_uri=self.uri)
        if run.known_as:
            client.update_run(run.known_as, status="RUNNING")
            return MLflowSink(client, Metric, run.known_as)
        found = client.get_experiment_by_name(self.experiment)
        where = found.experiment_id if found else client.create_experiment(self.experiment)
        known_as = client.create_run(where, run_name=run.directory.name).info.run_id
        parameters = [Param(key, str(value)[:LONGEST]) for key, value in flat(run.config).items()]
        for first in range(0, len(parameters), PARAMETERS):
            client.log_batch(known_as, params=parameters[first : first + PARAMETERS])
        return MLflowSink(client, Metric, known_as)


class MLflowSink:
    """A run, by a client of its own: the process may have another one active."""

    sent: Mapping[str, int] | None = None

    def __init__(self, client: Any, metric: Any, known_as: str) -> None:
        self.known_as = known_as
        self._client, self._metric = client, metric

    def log(self, row: Row) -> None:
        """Log a row's figures in one request."""
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, row.number) for name, value in by_stage(row).items()]
        self._client.log_batch(self.known_as, metrics=metrics)

    def close(self, finished: bool) -> None:
        """Say how the run stands."""
        self._client.set_terminated(self.known_as, "FINISHED" if finished else "KILLED")
