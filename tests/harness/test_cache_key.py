"""What a cached answer is kept under: all that can change a number, and nothing that cannot."""

from __future__ import annotations

import inspect
import json
import shutil

import pytest
import torch
from lm_eval.api.model import CachingLM
from lm_eval.models.hf_vlms import HFMultimodalLM
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from grains_eval.harness.cache_key import HARMLESS, cache_key, complete, weights_digest
from grains_eval.harness.model import GrainsHF, GrainsHFMultimodal
from tests.instances import instance

ARGUMENTS = {
    name
    for kind in (GrainsHF, GrainsHFMultimodal, HFLM, HFMultimodalLM)
    for name in inspect.signature(kind.__init__).parameters
} - {"self", "kwargs"}


def open_lm(folder, **arguments):
    return GrainsHF.create_from_arg_obj(
        {"pretrained": str(folder), "dtype": "float32", "device": "cpu", "batch_size": 3, **arguments}
    )


@pytest.fixture(scope="module")
def plain(tiny_text):
    return open_lm(tiny_text("llama"))


@pytest.mark.parametrize("name", sorted(ARGUMENTS | HARMLESS | {"load_in_4bit", "attn_implementation", "of_tomorrow"}))
def test_every_argument_is_in_the_key_but_those_listed(plain, name):
    given = {"pretrained": "here", name: "another value"}
    apart = cache_key(plain, given, []) != cache_key(plain, {"pretrained": "here"}, [])
    assert apart == (name not in HARMLESS)


def test_a_default_that_is_written_out_is_the_same(plain):
    key = cache_key(plain, {"pretrained": "here"}, [])
    assert cache_key(plain, {"pretrained": "here", "max_length": None, "share_context": True}, []) == key
    assert "softmax_dtype" in complete(GrainsHF, {}), "the defaults of lm-eval's own class"
    same = [{"pretrained": "here", "dtype": dtype} for dtype in ("float32", torch.float32)]
    assert cache_key(plain, same[0], []) == cache_key(plain, same[1], [])
    kinds = [BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind) for kind in ("nf4", "nf4", "fp4")]
    keys = [cache_key(plain, {"quantization_config": kind}, []) for kind in kinds]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_length": 64},
        {"softmax_dtype": "float64"},
        {"add_bos_token": False},
        {"dtype": "bfloat16"},
        {"share_context": False},
        {"truncation": True},
        {"think_end_token": "x"},
    ],
    ids=str,
)
def test_models_opened_otherwise_keep_their_answers_apart(tiny_text, plain, arguments):
    assert open_lm(tiny_text("llama"), **arguments).cache_fingerprint() != plain.cache_fingerprint()


def test_the_same_model_opened_again_finds_its_answers(tiny_text, plain):
    again = open_lm(tiny_text("llama"), batch_size=1, max_length=None)
    before = again.cache_fingerprint()
    assert before == plain.cache_fingerprint()
    settings = {"until": ["zzz"], "max_gen_toks": 3, "do_sample": False}
    again.generate_until([instance("generate_until", {}, ("what is", settings))], disable_tqdm=True)
    assert again.cache_fingerprint() == before, "answering changes nothing"


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: _edit(folder / "tokenizer_config.json", "model_max_length", 7),
        lambda folder: (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}"),
        lambda folder: _edit(folder / "generation_config.json", "repetition_penalty", 2.0),
        lambda folder: _edit(folder / "config.json", "rope_parameters", {"rope_type": "default", "rope_theta": 5.0}),
        lambda folder: _edit(folder / "config.json", "rms_norm_eps", 0.1),
    ],
    ids=["tokenizer", "template", "generation", "rope", "norm"],
)
def test_a_folder_written_again_is_another_model(tiny_text, tmp_path, plain, change):
    folder = tmp_path / "model"
    shutil.copytree(tiny_text("llama"), folder)
    key = open_lm(folder).cache_fingerprint()
    change(folder)
    assert open_lm(folder).cache_fingerprint() != key


def _edit(file, name, value):
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))


def in_memory(tiny_text, model):
    return GrainsHF(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(tiny_text("llama")), device="cpu")


def test_models_in_memory_are_told_apart_by_what_they_are(tiny_text):
    model = AutoModelForCausalLM.from_pretrained(tiny_text("llama"), dtype=torch.float32).eval()
    same = AutoModelForCausalLM.from_pretrained(tiny_text("llama"), dtype=torch.float32).eval()
    key = in_memory(tiny_text, model).cache_fingerprint()
    assert in_memory(tiny_text, same).cache_fingerprint() == key
    with torch.no_grad():  # two numbers exchanged: sums and sizes stay
        row = same.lm_head.weight[5]
        row[0], row[1] = row[1].clone(), row[0].clone()
    assert in_memory(tiny_text, same).cache_fingerprint() != key
    model.config.rms_norm_eps *= 2
    assert in_memory(tiny_text, model).cache_fingerprint() != key


def test_adapters_are_told_apart_by_scale(tiny_text):
    keys = set()
    for alpha in (8, 16):
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(tiny_text("llama"), dtype=torch.float32)
        config = LoraConfig(init_lora_weights=False, target_modules=["q_proj"], lora_alpha=alpha)
        keys.add(in_memory(tiny_text, get_peft_model(base, config).eval()).cache_fingerprint())
    assert len(keys) == 2


def test_weights_on_disk_are_read(tiny_text, tmp_path):
    folder = tiny_text("llama")
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu", "model.rotary_emb": "cpu"}
    places |= {f"model.layers.{i}": "disk" if i == 2 else "cpu" for i in range(3)}
    split = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, device_map=places, offload_folder=str(tmp_path)
    )
    assert any(parameter.is_meta for parameter in split.parameters())
    assert weights_digest(split) == weights_digest(whole)


def test_pixel_limits_are_in_the_key(tiny_vision):
    def key(**limits):
        return open_lm(tiny_vision("qwen2_5_vl"), **limits).cache_fingerprint()

    assert len({key(), key(min_pixels=3136), key(max_pixels=6272)}) == 3


@pytest.mark.parametrize("arguments", [{"max_length": 4}, {"add_bos_token": False}, {"share_context": False}], ids=str)
def test_a_cache_gives_no_answer_of_another_setting(tiny_text, tmp_path, arguments):
    requests = [instance("loglikelihood", {}, ("what is the capital of france", " paris"))]
    cache = str(tmp_path / "cache.db")
    first = CachingLM(open_lm(tiny_text("llama")), cache).loglikelihood(requests)
    other = open_lm(tiny_text("llama"), **arguments)
    asked = []
    inner = other._loglikelihood_tokens
    other._loglikelihood_tokens = lambda given, **keywords: asked.append(len(given)) or inner(given, **keywords)
    found = CachingLM(other, cache).loglikelihood(requests)
    assert asked == [1]
    assert (found == first) == ("share_context" in arguments) or found == pytest.approx(first)


def test_the_adapter_that_acts_is_in_the_key(tiny_text):
    folder = tiny_text("llama")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name in ("a", "b"):
        model.add_adapter(LoraConfig(target_modules=["q_proj"], init_lora_weights=False), name)
    lm = GrainsHF(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(folder), device="cpu")

    def key(change):
        change()
        return cache_key(lm, {"pretrained": model}, [])

    switches = [lambda: model.set_adapter("a"), lambda: model.set_adapter("b"), model.disable_adapters]
    assert len({key(switch) for switch in switches}) == 3
