"""The artifact folder: save, load and identify steering vectors.

`steering_config.json` (everything but tensors), `steering_vectors.safetensors` (keys `layers.{i}`, float32, unscaled),
`attributions.parquet` (per example and token), `recipe.yaml` as run, `README.md` card. Found tokens are in
`found_tokens.safetensors` instead, in all three forms: keys and values, embeddings, and words in the config. A LoRA
baseline keeps a standard peft folder `adapter/` instead of tensors; a prompting baseline keeps its instruction in the
config. Nothing is unpickled.
"""

from grains_eval.artifacts.layout import CONFIG, TENSORS, TOKENS, Artifact, fingerprint
from grains_eval.artifacts.loading import load, open_artifact
from grains_eval.artifacts.saving import check_replaceable, package_versions, save, save_tensors

__all__ = [
    "CONFIG",
    "TENSORS",
    "TOKENS",
    "Artifact",
    "check_replaceable",
    "fingerprint",
    "load",
    "open_artifact",
    "package_versions",
    "save",
    "save_tensors",
]
