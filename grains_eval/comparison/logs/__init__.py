"""Reads what evaluation tools log: one module a tool, behind `read_run`. Needs none of the tools, unpickles nothing."""

from __future__ import annotations

from grains_eval.comparison.logs.reading import read_run, read_runs

__all__ = ["read_run", "read_runs"]
