"""One command per claim about speed: `python -m benchmarks.<name>`; `--smoke` checks exactness."""
