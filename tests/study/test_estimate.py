"""What is told before a build against what the build does: passes to the last one, memory by torch's allocator."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
import torch
import transformers as hf
from PIL import Image

from benchmarks import build as build_benchmark
from benchmarks import common
from grains_eval import cli
from grains_eval.attribution import attribute
from grains_eval.errors import GrainsError
from grains_eval.models import LoadedModel
from grains_eval.models.layers import find_decoder
from grains_eval.models.sketch import sketch
from grains_eval.recipes import AttributionConfig, parse_recipe
from grains_eval.study.estimate import Devices, estimate, parse_devices
from grains_eval.study.passes import tokens, total
from tests.study.studies import build

WORDS = "paris rome london red blue green cat dog".split()  # noqa: SIM905


def recipe(folder, *overrides, images=False):
    rows = [
        {
            "prompt": f"Question what is {' hello'.join(WORDS[: index % 5])} {word} Answer",
            "chosen": "yes hello world" if index % 2 else "yes",
            "rejected": "no" if index % 3 else "no red green blue cat dog",
        }
        for index, word in enumerate(WORDS)
    ]
    if images:
        Image.new("RGB", (28, 28), (200, 30, 30)).save(folder / "red.png")
        rows = [{**row, "images": ["red.png"]} for row in rows]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"path": str(folder / "d.jsonl"), "examples": 6, "development": 2}
    raw = {
        "name": "t",
        "data": {**data, "images": "images"} if images else data,
        "attribution": {
            "top_k": 1,
            "steps": 4,
            "max_steps": 4,
            "max_document_frequency": 1.0,
            "fidelity_examples": 0,
        },
        "steering": {"layers": [1], "strength": 0.5},
    }
    made = parse_recipe(raw, overrides)
    return made.model_copy(update={"data": made.data.beside(folder)})


@contextmanager
def counted(model):
    """Rows that begin a prompt, with gradient and without, and all tokens."""
    found = {"with": 0, "without": 0, "tokens": 0}

    def note(module, arguments, keywords):
        given = keywords.get("inputs_embeds")
        given = given if given is not None else (arguments[0] if arguments else keywords["input_ids"])
        past = keywords.get("past_key_values")
        found["tokens"] += given.shape[0] * given.shape[1]
        if past is None or not past.get_seq_length():
            found["with" if given.requires_grad else "without"] += given.shape[0]

    handle = find_decoder(model).register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


def told(recipe, folder):
    found = estimate(recipe, {"pretrained": str(folder), "dtype": "float32", "device": "cpu"})
    runs = [run for phase in found.phases for run in phase.most]
    assert all(phase.least == phase.most for phase in found.phases)
    return {"with": total(runs, backward=True), "without": total(runs, backward=False), "tokens": tokens(runs)}


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("vectors.at=response",),
        ("attribution.share_prefix=false",),
        ("attribution.method=gradient",),
        ("attribution.method=smoothgrad", "attribution.samples=3"),
        ("attribution.internal_batch_size=3",),
        ("vectors.method=random_tokens",),
        ("vectors.method=negated",),
        ("vectors.method=caa",),
        ("vectors.method=icv",),
        ("vectors.method=random",),
        ("vectors.method=vocabulary",),
    ],
)
def test_passes_are_those_of_the_build(overrides, tmp_path, tiny_text, loaded_text):
    fixed = ("steering.strength=0.5", "vectors.options.steering={layers: [1], strength: 0.5}")
    given = recipe(
        tmp_path, *overrides, *(fixed[1:] if any("caa" in o or "icv" in o for o in overrides) else fixed[:1])
    )
    loaded = loaded_text("llama")
    with counted(loaded.model) as done:
        build(given, {"pretrained": str(tiny_text("llama")), "dtype": "float32"}, tmp_path / "v", loaded=loaded)
    assert told(given, tiny_text("llama")) == done


def test_passes_of_fidelity_are_told_at_most(tmp_path, tiny_text, loaded_text):
    given, loaded = recipe(tmp_path, "attribution.fidelity_examples=3"), loaded_text("llama")
    with counted(loaded.model) as done:
        build(given, {"pretrained": str(tiny_text("llama")), "dtype": "float32"}, tmp_path / "v", loaded=loaded)
    found = estimate(given, {"pretrained": str(tiny_text("llama")), "dtype": "float32", "device": "cpu"})
    least, most = (
        total([run for phase in found.phases for run in getattr(phase, side)], backward=False)
        for side in ("least", "most")
    )
    # three prompts of which the token that begins the text is the only one that is never removed
    assert least < done["without"] <= most <= done["without"] + 3


@pytest.mark.slow
def test_passes_of_a_model_that_cannot_share_prompts(tmp_path, tiny_text, loaded_text):
    given, loaded = recipe(tmp_path), loaded_text("mamba")
    with counted(loaded.model) as done:
        build(given, {"pretrained": str(tiny_text("mamba")), "dtype": "float32"}, tmp_path / "v", loaded=loaded)
    assert told(given, tiny_text("mamba")) == done


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_passes_with_images(family, tmp_path, tiny_vision, loaded_vision):
    given, loaded = recipe(tmp_path, images=True), loaded_vision(family)
    with counted(loaded.model) as done:
        build(given, {"pretrained": str(tiny_vision(family)), "dtype": "float32"}, tmp_path / "v", loaded=loaded)
    assert told(given, tiny_vision(family)) == done
    found = estimate(given, {"pretrained": str(tiny_vision(family)), "dtype": "float32", "device": "cpu"})
    assert found.vision[0] == found.vision[1] > 0


@contextmanager
def encoded(model):
    """Images through the vision tower."""
    images = []
    tower = model.get_encoder(modality="image")
    handle = tower.register_forward_pre_hook(lambda *_: images.append(1))
    try:
        yield images
    finally:
        handle.remove()


def test_passes_of_greyed_images_are_told_at_most(tmp_path, tiny_vision, loaded_vision):
    """Every set of removed patches is an image of its own."""
    changes = ("attribution.fidelity_examples=1", "vectors.mask=pixel")
    given, loaded = recipe(tmp_path, *changes, images=True), loaded_vision("llava")
    with counted(loaded.model) as done, encoded(loaded.model) as images:
        build(given, {"pretrained": str(tiny_vision("llava")), "dtype": "float32"}, tmp_path / "v", loaded=loaded)
    found = estimate(given, {"pretrained": str(tiny_vision("llava")), "dtype": "float32", "device": "cpu"})
    runs = [run for phase in found.phases for run in phase.most]
    least = total([run for phase in found.phases for run in phase.least], backward=False)
    assert least < done["without"] <= total(runs, backward=False) <= 1.1 * done["without"]
    assert done["tokens"] <= tokens(runs) <= 1.1 * done["tokens"]
    plain = recipe(tmp_path, changes[0], images=True)
    unmasked = estimate(plain, {"pretrained": str(tiny_vision("llava")), "dtype": "float32", "device": "cpu"})
    most, once = found.vision[1], unmasked.vision[0] / 2 / 6  # a prompt and its blank image, six examples
    assert 0.8 * len(images) <= most / once <= len(images)


@pytest.fixture
def one_thread():
    """Kernels of several threads take buffers for each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def allocated(loaded, example, rows, folder):
    """Bytes at the peak of an attribution by torch's own allocator, which knows every tensor of every operation."""
    config = AttributionConfig(steps=rows, max_steps=rows, internal_batch_size=rows, tolerance=1e3)
    attribute(loaded, example, config)  # what is made once and kept is none of it
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        attribute(loaded, example, config)
    profiler.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    steps = [each for each in events if each.get("name") == "[memory]"]
    live = peak = 0
    for step in sorted(steps, key=lambda each: (each["ts"], each.get("args", {}).get("Ev Idx", 0))):
        live += step["args"]["Bytes"]
        peak = max(peak, live)
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("size", [(6, 256, 4096, 160, 8, 12), (8, 512, 8192, 200, 20, 6)])
def test_memory_is_what_the_allocator_gave(size, tmp_path, one_thread):
    """The peak, and what a further row adds to it, to a tenth: in two models of different shapes."""
    layers, width, vocabulary, prompt, response, rows = size
    model = common.llama(layers, width, vocabulary, 1024)
    model.save_pretrained(tmp_path)
    loaded = LoadedModel(lm=None, model=model, tokenizer=None)
    example = build_benchmark.example(model, prompt, (response, response), 0)
    raw = {"name": "t", "data": {"path": "x", "development": 0}, "steering": {"layers": [1], "strength": 1.0}}
    given = parse_recipe(raw, [f"attribution.steps={rows}", f"attribution.internal_batch_size={rows}"])
    found = estimate(given, {"pretrained": str(tmp_path), "device": "cpu"}, lengths=(prompt, response))
    assert found.weights == sum(each.nbytes for each in (*model.parameters(), *model.buffers()))
    whole, half = (allocated(loaded, example, count, tmp_path) for count in (rows, rows // 2))
    print(
        f"told {found.needed(rows) - found.weights:,}, allocated {whole:,}; a row {found.peak.row:,}, "
        f"{(whole - half) / (rows - rows // 2):,.0f}"
    )
    assert found.needed(rows) - found.weights == pytest.approx(whole, rel=0.1)
    assert found.peak.row == pytest.approx((whole - half) / (rows - rows // 2), rel=0.1)


@pytest.fixture
def big(tmp_path):
    """The configuration of an 8B model, and nothing else."""
    config = hf.LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128256, dtype="bfloat16",
    )  # fmt: skip
    config.save_pretrained(tmp_path / "8b")
    return tmp_path / "8b"


@pytest.mark.slow
def test_the_command_prints_every_number_from_a_configuration_alone(big, capsys):
    words = ["build", "--config", "truthfulqa", "--model_args", f"pretrained={big}", "--estimate"]
    words += ["--prompt_tokens", "128", "--device_memory", "8,24,80,4x8,4x24", "--device_tflops", "100"]
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    printed = {line[:40].strip(): line[40:] for line in text.splitlines()}
    assert printed["model"] == "LlamaForCausalLM, 8.03 billion parameters, bfloat16"
    assert printed["weights"] == "15 GiB"
    assert printed["attribution"].startswith("1,000 passes with gradient, 100 passes without gradient, ")
    assert printed["attribution, at most"].startswith("15,000 passes with gradient, ")
    assert printed["fits 8 GB"].startswith("no: the weights alone are larger; use ")
    assert printed["fits 24 GB"].startswith("yes, ") and printed["fits 80 GB"].startswith("yes, ")
    assert printed["fits 4 x 8 GB"].endswith("parallelize=True: the weights are split")
    assert "torchrun --nproc_per_node 4" in printed["fits 4 x 24 GB"]
    # two operations for every weight and token, forward and once more backward
    passed = printed["attribution"].split(" tokens, ")[0].rsplit(" ", 1)[1]
    rough = 2 * 2 * 7.0e9 * int(passed.replace(",", "")) / 1e15
    assert float(printed["attribution"].rsplit(" ", 2)[1]) == pytest.approx(rough, rel=0.1)
    assert {"activations", "gradients", "peak, one row", "peak, 20 rows", "operations", "evaluation", "time"} <= set(
        printed
    )


BAD_ARGUMENTS = {
    "dtyp=bfloat16": "unknown model argument 'dtyp': did you mean 'dtype'?",
    "foo=1": "unknown model argument 'foo'",
    "vectors=foo": "unknown model argument 'vectors' of a build",
    "max_length=abc": "max_length=abc is not a whole number",
    "backend=zz": "backend=zz is not known; write default, causal, seq2seq",
    "add_bos_token=7": "add_bos_token=7 is neither true nor false",
    "softmax_dtype=zz": "softmax_dtype=zz is not a torch dtype",
}


@pytest.mark.parametrize("estimating", [True, False])
@pytest.mark.parametrize("argument", BAD_ARGUMENTS)
def test_estimate_and_build_refuse_the_same_arguments(argument, estimating, tmp_path, tiny_text, capsys):
    made = recipe(tmp_path)
    (tmp_path / "r.yaml").write_text(made.to_yaml())
    where = ["--estimate"] if estimating else ["--output_path", str(tmp_path / "v")]
    model = f"pretrained={tiny_text('llama')},dtype=float32,{argument}"
    assert cli.main(["build", "--config", str(tmp_path / "r.yaml"), "--model_args", model, *where]) == 2
    text = capsys.readouterr().err
    said = [line for line in text.splitlines() if line.startswith("grains-eval: ")]
    assert len(said) == 1 and BAD_ARGUMENTS[argument] in said[0] and "Traceback" not in text


def test_what_transformers_takes_is_not_refused(tiny_text, tmp_path):
    more = {"attn_implementation": "eager", "low_cpu_mem_usage": True, "plugins": None, "share_context": False}
    given = {"pretrained": str(tiny_text("llama")), "dtype": "float32", "device": "cpu", "num_labels": 2, **more}
    assert estimate(recipe(tmp_path), given, lengths=(9, 3)).parameters


def test_an_error_without_a_message_is_named(tiny_text, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError

    monkeypatch.setattr("grains_eval.study.lengths._tokenizing", fails)
    with pytest.raises(GrainsError, match=r"has no tokenizer that can be loaded \(OSError\)"):
        estimate(recipe(tmp_path), {"pretrained": str(tiny_text("llama"))})


@pytest.mark.parametrize("text", ["00x24", "0x24", "0", "9" * 400, "9" * 400 + "x24", "24x", "nan"])
def test_device_memory_that_is_no_amount(text):
    with pytest.raises(GrainsError, match="is not understood; write 24 for one device"):
        parse_devices(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--estimate"], "has no tokenizer that can be loaded"),
        (["--prompt_tokens", "9"], "--prompt_tokens is for --estimate; add it"),
        ([], "no folder to write; add --output_path FOLDER, or --estimate"),
        (["--estimate", "--response_tokens", "9"], "--response_tokens needs --prompt_tokens"),
        (["--estimate", "--prompt_tokens", "0"], "--prompt_tokens 0 is not a number above 0"),
        (["--estimate", "--prompt_tokens", "9", "--device_memory", "big"], "device memory 'big' is not understood"),
        (
            ["--estimate", "--prompt_tokens", "9", "--set", "vectors.method=lora"],
            "the passes of method 'lora' are not known",
        ),
    ],
)
def test_errors_are_one_line(words, message, big, capsys):
    given = ["build", "--config", "truthfulqa", "--model_args", f"pretrained={big}", *words]
    assert cli.main(given) == 2
    text = capsys.readouterr().err
    assert message in text and text.count("\n") == 1


def test_weights_of_unknown_size_are_refused(big):
    with pytest.raises(GrainsError, match="the size of weights with load_in_4bit is not in the model's configuration"):
        sketch({"pretrained": str(big), "load_in_4bit": True})
    config = json.loads((big / "config.json").read_text())
    (big / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(GrainsError, match="the checkpoint is quantised"):
        sketch({"pretrained": str(big)})


def test_devices():
    assert parse_devices("24") == Devices(1, 24.0) and parse_devices("4x80") == Devices(4, 80.0)
    assert str(Devices(4, 80.0)) == "4 x 80 GB"


def test_half_precision_takes_half(big):
    half, whole = (sketch({"pretrained": str(big), "dtype": dtype}) for dtype in ("bfloat16", "float32"))
    assert half.dtype == torch.bfloat16
    assert half.weights == pytest.approx(whole.weights / 2, rel=1e-3)
