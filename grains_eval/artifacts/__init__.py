"""The artifact folder: what a build writes and everything else reads.

`steering_config.json` (everything but tensors), `steering_vectors.safetensors` (keys `layers.{i}`, float32, unscaled),
`attributions.parquet` (per example and token), `recipe.yaml` as run, `README.md` card. Found tokens are in
`found_tokens.safetensors` instead, in all three forms: keys and values, embeddings, and words in the config. A LoRA
baseline keeps a standard peft folder `adapter/` instead of tensors; a prompting baseline keeps its instruction in the
config. Nothing is unpickled. Nothing is imported here, so that a report can read token maps without torch.
"""
