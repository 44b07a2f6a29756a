"""Grids over a recipe: build, tune, sweep, ablate, compare."""
