"""What the Python beside our task YAML imports: the benchmarks' data files and the toxicity classifier."""
