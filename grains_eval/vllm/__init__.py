"""Steered vLLM: the same artifacts and settings as `grains_hf`, compiled, sharded, many settings in one engine.

A general plugin of vLLM (`plugin`) gives every decoder layer static tables that its own forward reads (`layers`), and
writes before each step which row of them moves which token (`runner`). `settings` turns artifacts into rows, `engine`
loads and checks them, `model` is lm-eval's model class and `serve` the steering of a server's requests.
"""
