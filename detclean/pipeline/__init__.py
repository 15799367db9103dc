"""What is done in which order: the only room that knows both the configuration and the domain."""

from __future__ import annotations

from detclean.pipeline.run import RunResult as RunResult
from detclean.pipeline.run import run_pipeline as run_pipeline
