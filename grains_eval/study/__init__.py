"""What the commands do with a recipe: build, tune, sweep, ablate, compare."""
