"""Engines: where the workers of a study run. Which one, and how many, changes no result."""

from tombola.studies.engines.base import Engine, watch
from tombola.studies.engines.local import Local
from tombola.studies.engines.on_ray import OnRay
from tombola.studies.engines.on_slurm import OnSlurm

__all__ = ["Engine", "Local", "OnRay", "OnSlurm", "watch"]
