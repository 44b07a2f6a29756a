"""Load models, find their layers, encode examples and run the decoder from merged embeddings."""

from grains_eval.models.embedding_check import encode_all
from grains_eval.models.encoded import EncodedExample
from grains_eval.models.encoding import encode, prompt_text
from grains_eval.models.loading import LoadedModel, load

__all__ = ["EncodedExample", "LoadedModel", "encode", "encode_all", "load", "prompt_text"]
