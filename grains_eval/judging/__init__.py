"""Judged scores: logged generations are rated by a model behind an OpenAI-compatible endpoint.

What comes out are lm-eval results and samples beside those of the run, so that `compare` reads them like any metric.
Nothing is loaded here.
"""
