"""Image log-likelihood beside `hf-multimodal`: equal to one at a time, nothing dropped, nothing cut."""

from __future__ import annotations

from dataclasses import replace

import lm_eval
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from lm_eval.models.hf_vlms import HFMultimodalLM

from grains_eval.artifacts.save import save_vectors
from grains_eval.errors import GrainsError
from grains_eval.harness.images import ImageLoglikelihoodMixin
from grains_eval.harness.model import GrainsHF
from grains_eval.models import image_inputs
from grains_eval.models.loading import load, missing_package
from grains_eval.steering import steered
from grains_eval.types import SteeringConfig, SteeringVectors
from tests import pictures
from tests.instances import HARNESS, instance
from tests.pictures import PICTURES
from tests.tiny import VISION

FAMILIES = list(VISION)
# Qwen merges bare neighbours; one at a time needs the markers that this project writes there by itself
MARKED = "<|vision_start|><|image_pad|><|vision_end|>"


class ImageModel(ImageLoglikelihoodMixin, HFMultimodalLM):
    """The class under test, without steering."""


@pytest.fixture(scope="module")
def model(tiny_vision):
    made = {}

    def get(family: str) -> ImageModel:
        if family not in made:
            made[family] = ImageModel(pretrained=str(tiny_vision(family)), dtype="float32", device="cpu", batch_size=2)
        return made[family]

    return get


def request(arguments, number=0, kind="loglikelihood") -> Instance:
    return instance(kind, {"number": number}, arguments, task="pictures", number=number)


def scoring_requests() -> list[Instance]:
    made = []
    for number in range(7):
        count = number % 3 + 1
        context = "<image>\nWhat is the picture" + " and <image>" * (count - 1) + "?" * (number + 1)
        if number == 4:
            context += " "  # lm-eval moves it to the continuation
        if number == 5:
            context = "What is " + "<image>" * count
        shown = (PICTURES * 2)[number % 3 : number % 3 + count]
        made.append(request((context, [" red square", " no", " paris is"][number % 3], {"visual": shown}), number))
    return made


def one_at_a_time(lm: ImageModel, asked: Instance) -> tuple[float, bool]:
    """By Hugging Face alone, batch size 1, no padding."""
    context, continuation, extra = asked.args
    kept = context.rstrip()
    continuation = context[len(kept) :] + continuation
    mark = MARKED if "qwen" in lm.config.model_type and "<image><image>" in kept else lm.image_token
    text, shown = kept.replace("<image>", mark), extra["visual"]
    shown = shown if lm.config.model_type == "llava" else [shown]
    start = lm.processor(text=[text], images=shown, return_tensors="pt")["input_ids"].shape[1]
    inputs = lm.processor(text=[text + continuation], images=shown, return_tensors="pt")
    ids = inputs["input_ids"][0, start:]
    with torch.no_grad():
        logprobs = lm.model(**inputs).logits[0, start - 1 : -1].log_softmax(-1)
    return float(logprobs.gather(-1, ids[:, None]).sum()), bool((logprobs.argmax(-1) == ids).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_equal_one_at_a_time(family, model):
    lm, asked = model(family), scoring_requests()
    expected = [one_at_a_time(lm, one) for one in asked]
    assert max(score for score, _ in expected) - min(score for score, _ in expected) > 1
    side = lm.tokenizer.padding_side
    for batch_size in (1, 3, 6):
        lm.batch_size_per_gpu = batch_size
        found = lm.loglikelihood(asked, disable_tqdm=True)
        assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-5)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
        assert lm.tokenizer.padding_side == side


def test_a_greedy_continuation_is_recognised(model):
    lm = model("llava")
    for marks in range(20):
        text = "<image>What is it" + "?" * marks
        with torch.no_grad():
            inputs = lm.processor(text=[text], images=PICTURES[:1], return_tensors="pt")
            token = int(lm.model(**inputs).logits[0, -1].argmax())
        word = lm.tok_decode([token])
        # it must survive the way through text
        if lm.tok_encode(text + word)[-1] == token and word.strip():
            break
    asked = [request((text, continuation, {"visual": PICTURES[:1]})) for continuation in (word, " no")]
    (best, greedy), (other, chosen) = lm.loglikelihood(asked, disable_tqdm=True)
    assert best > other
    assert (greedy, chosen) == (True, False)


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("qwen2_5_vl", ["mm_token_type_ids", "image_grid_thw"]),
        ("qwen3_vl", ["mm_token_type_ids", "image_grid_thw"]),
        ("gemma3", ["token_type_ids"]),
        ("llava_next", ["image_sizes"]),
        ("idefics3", ["pixel_values"]),
        ("llava", ["pixel_values"]),
    ],
)
def test_every_processor_key_reaches_the_model(family, keys, model, monkeypatch):
    lm, asked = model(family), scoring_requests()[:3]
    lm.batch_size_per_gpu = 3
    expected = [score for score, _ in lm.loglikelihood(asked, disable_tqdm=True)]
    whole = image_inputs.process
    for key in keys:
        seen = []

        def without(*arguments, key=key, seen=seen):
            features = whole(*arguments)
            seen.append(features.pop(key))
            return features

        monkeypatch.setattr(image_inputs, "process", without)
        try:
            found = [score for score, _ in lm.loglikelihood(asked, disable_tqdm=True)]
        except Exception as error:  # a model may also refuse outright
            assert not isinstance(error, GrainsError)
        else:
            assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) > 1e-3, key
        assert seen
        monkeypatch.setattr(image_inputs, "process", whole)


def test_requests_with_and_without_pictures_keep_their_order(model):
    lm = model("qwen2_5_vl")
    seeing = scoring_requests()[:3]
    reading = [request(("What is the", " picture"), 7), request(("What is the", " dog", {"visual": []}), 8)]
    mixed = [seeing[0], reading[0], seeing[1], reading[1], seeing[2]]
    found = lm.loglikelihood(mixed, disable_tqdm=True)
    expected = [one_at_a_time(lm, one)[0] for one in seeing]
    assert [found[index][0] for index in (0, 2, 4)] == pytest.approx(expected, abs=1e-5)
    ids = lm.tokenizer("What is the picture", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logprobs = lm.model(ids).logits[0].log_softmax(-1)
    assert found[1][0] == pytest.approx(float(logprobs[-2, ids[0, -1]]), abs=1e-5)
    assert found[3][0] != found[1][0]


def generation_requests() -> list[Instance]:
    options = {"until": ["\n"], "max_gen_toks": 6}
    return [
        request((asked.args[0], dict(options), asked.args[2]), number, "generate_until")
        for number, asked in enumerate(scoring_requests())
        if number != 5  # bare neighbours crash Qwen in hf-multimodal
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_equals_hf_multimodal(family, model, tiny_vision):
    lm = model(family)
    lm.batch_size_per_gpu = 6
    # hf-multimodal cannot place Gemma's pictures by itself
    extra = {"image_string": "<start_of_image>"} if family == "gemma3" else {}
    other = HFMultimodalLM(pretrained=str(tiny_vision(family)), dtype="float32", device="cpu", batch_size=6, **extra)
    reading = [
        request(("What is the" + " world" * n, {"until": ["\n"], "max_gen_toks": 6}), n, "generate_until")
        for n in range(2)
    ]
    seeing = generation_requests()
    expected = other.generate_until(seeing, disable_tqdm=True) + other.generate_until(reading, disable_tqdm=True)
    found = lm.generate_until([*seeing, *reading], disable_tqdm=True)
    assert found == expected
    assert len(set(found)) > 2


def test_neighbouring_pictures_are_kept_apart_in_generation(model):
    lm = model("qwen2_5_vl")
    options = {"until": ["\n"], "max_gen_toks": 4}
    silent, told = (
        request((text, dict(options), {"visual": PICTURES[:2]}), number, "generate_until")
        for number, text in enumerate(["What is it?", MARKED * 2 + "What is it?"])
    )
    first, second = lm.generate_until([silent, told], disable_tqdm=True)
    assert first == second


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3", "llava_next"])
def test_chat_prompts(family, tiny_vision):
    lm = ImageModel(pretrained=str(tiny_vision(family)), dtype="float32", device="cpu", batch_size=2)
    text = lm.apply_chat_template([{"role": "user", "content": "<image>What is it?"}])
    assert "<image>What" not in text or family == "llava_next"
    asked = request((text, " red", {"visual": PICTURES[:1]}))
    found = lm.loglikelihood([asked, asked], disable_tqdm=True)
    assert found[0][0] == pytest.approx(one_at_a_time(lm, asked)[0], abs=1e-5)
    dropped = request(("What is it?", " red", {"visual": PICTURES[:1]}))
    with pytest.raises(GrainsError, match="0 image placeholder"):
        lm.loglikelihood([dropped], disable_tqdm=True)


def test_a_template_that_writes_bos_gets_no_second_one(model):
    lm = model("gemma3")
    written = image_inputs.process(lm, ["<s><start_of_image>What?"], [PICTURES[:1]], "it")["input_ids"][0].tolist()
    plain = image_inputs.process(lm, ["<start_of_image>What?"], [PICTURES[:1]], "it")["input_ids"][0].tolist()
    assert written == plain
    assert written.count(1) == 1


def test_nothing_is_cut(tiny_vision):
    lm = ImageModel(pretrained=str(tiny_vision("gemma3")), dtype="float32", device="cpu", batch_size=2, max_length=30)
    long = "<image>What is the picture and the world?"
    with pytest.raises(GrainsError, match=r"document 3 of task pictures.*max_length is 30"):
        lm.loglikelihood([request((long, " red square", {"visual": PICTURES[:1]}), 3)], disable_tqdm=True)
    options = {"until": ["\n"], "max_gen_toks": 20}
    with pytest.raises(GrainsError, match="max_length=30"):
        lm.generate_until([request((long, options, {"visual": PICTURES[:1]}), 3, "generate_until")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("<image>What?", " a", {"visual": [None]}), "document 2 of task pictures: image 0 is missing"),
        (("<image><image>What?", " a", {"visual": PICTURES[:1]}), "2 image placeholder"),
        (("<image>What?", " a", {"visual": PICTURES[:2]}), "1 image placeholder"),
        (("<image>What <|image_pad|>?", " a", {"visual": PICTURES[:1]}), "2 image placeholder"),
        (("<image>What?", "", {"visual": PICTURES[:1]}), "continuation is empty"),
    ],
)
def test_bad_requests_are_one_clear_line(arguments, message, model):
    lm = model("qwen2_5_vl")
    with pytest.raises(GrainsError, match=message) as caught:
        lm.loglikelihood([request(arguments, 2)], disable_tqdm=True)
    assert "\n" not in str(caught.value)


def test_more_pictures_than_max_images(tiny_vision):
    lm = ImageModel(
        pretrained=str(tiny_vision("llava_next")), dtype="float32", device="cpu", batch_size=2, max_images=1
    )
    asked = request(("<image> and <image>", " red", {"visual": PICTURES[:2]}))
    with pytest.raises(GrainsError, match="2 images but the model takes max_images=1"):
        lm.loglikelihood([asked], disable_tqdm=True)


def test_arguments_that_cannot_work_are_refused(tiny_vision, monkeypatch):
    with pytest.raises(GrainsError, match="batch_size=auto"):
        ImageModel(pretrained=str(tiny_vision("llava")), batch_size="auto:4")

    def refuse(*_, **__):
        raise ImportError("\nQwen2VLVideoProcessor requires the Torchvision library but it was not found.\nSee")

    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", refuse)
    for build in (ImageModel, lambda **kwargs: load(kwargs)):
        with pytest.raises(GrainsError, match=r"Torchvision library.*pip install torchvision"):
            build(pretrained=str(tiny_vision("qwen2_5_vl")))
    assert "\n" not in str(missing_package("m", ImportError("a\nb")))


def test_picture_tasks_are_refused_on_a_text_model(tiny_text, picture_task):
    lm = GrainsHF.create_from_arg_obj({"pretrained": str(tiny_text("llama"))}, {"device": "cpu", "batch_size": 2})
    with pytest.raises(GrainsError, match="task pictures shows images but LlamaForCausalLM reads text only"):
        lm_eval.simple_evaluate(model=lm, tasks=["pictures"], task_manager=picture_task, bootstrap_iters=0)


def test_the_processor_can_come_from_elsewhere(tiny_vision):
    folder = str(tiny_vision("llava"))
    lm = ImageModel(pretrained=folder, tokenizer=folder, dtype="float32", device="cpu", batch_size=1)
    asked = scoring_requests()[0]
    assert lm.loglikelihood([asked], disable_tqdm=True)[0][0] == pytest.approx(one_at_a_time(lm, asked)[0], abs=1e-5)


@pytest.mark.skipif(HARNESS >= (0, 5), reason="lm_eval 0.5.0.dev1 cannot cache requests with pictures")
def test_request_cache_tells_pictures_apart_and_resumes(model, tmp_path, monkeypatch):
    lm = model("llava")
    lm.batch_size_per_gpu = 1
    asked = scoring_requests()[:3]
    cached = CachingLM(lm, str(tmp_path / "cache.db"))
    scored = []
    real = lm._score_batch

    def failing(batch):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.extend(batch)
        return real(batch)

    monkeypatch.setattr(lm, "_score_batch", failing)
    with pytest.raises(KeyboardInterrupt):
        cached.loglikelihood(asked)
    monkeypatch.setattr(lm, "_score_batch", lambda batch: scored.extend(batch) or real(batch))
    found = cached.loglikelihood(asked)
    assert len(scored) == 3
    other = replace(asked[0], arguments=(*asked[0].args[:2], {"visual": [PICTURES[2]]}))
    assert cached.loglikelihood([other])[0] != found[0]
    assert cached.loglikelihood(asked) == found
    assert len(scored) == 4
    lm.set_cache_hook(type(lm.cache_hook)(None))


@pytest.mark.skipif(HARNESS < (0, 5), reason="lm_eval 0.4 has pictures among the arguments alone")
def test_pictures_beside_the_arguments_are_seen_and_not_cached(model, tmp_path):
    lm = model("llava")

    def beside(asked):
        return replace(asked, arguments=asked.args[:2], additional_args=asked.args[2])

    for score, made in ((lm.loglikelihood, scoring_requests()[:2]), (lm.generate_until, generation_requests()[:2])):
        found = score([beside(one) for one in made], disable_tqdm=True)
        assert found == score(made, disable_tqdm=True)
        cached = CachingLM(lm, str(tmp_path / "cache.db"))
        with pytest.raises(
            GrainsError, match=r"document 0 of task pictures: .*images left out; run without --use_cache"
        ):
            getattr(cached, made[0].request_type)([beside(one) for one in made])
        lm.set_cache_hook(type(lm.cache_hook)(None))


@pytest.fixture
def picture_task(tmp_path):
    return pictures.task(tmp_path)


def test_any_multiple_choice_task_with_pictures(model, picture_task):
    lm = model("qwen2_5_vl")
    lm.batch_size_per_gpu = 3
    if HARNESS >= (0, 5):  # 0.5.0.dev1 drops the pictures on their way: text alone must not be scored
        with pytest.raises(GrainsError, match=r"holds 1 image placeholder.* for 0"):
            lm_eval.simple_evaluate(model=lm, tasks=["pictures"], task_manager=picture_task, bootstrap_iters=0)
        return
    results = lm_eval.simple_evaluate(
        model=lm, tasks=["pictures"], task_manager=picture_task, log_samples=True, bootstrap_iters=0
    )
    samples = results["samples"]["pictures"]
    assert len(samples) == 4
    right = 0
    for sample, shown in zip(samples, (*PICTURES, PICTURES[0]), strict=True):
        doc = sample["doc"]
        scores = [
            one_at_a_time(lm, request((f"<image>{doc['question']}", choice, {"visual": [shown]})))[0]
            for choice in doc["choices"]
        ]
        found = [float(answer[0]) for answer in sample["filtered_resps"]]
        assert found == pytest.approx(scores, abs=1e-4)
        right += int(scores[1] > scores[0]) == doc["label"]
    assert results["results"]["pictures"]["acc,none"] == right / 4


@pytest.mark.parametrize(
    ("family", "share_context"),
    [*((family, True) for family in FAMILIES), ("qwen2_5_vl", False), ("gemma3", False)],
)
def test_grains_hf_without_vectors_equals_one_at_a_time(family, share_context, tiny_vision):
    lm = GrainsHF.create_from_arg_obj(
        {"pretrained": str(tiny_vision(family)), "dtype": "float32", "share_context": share_context},
        {"device": "cpu", "batch_size": 3},
    )
    asked = scoring_requests()
    both = [*asked, *(replace(one, arguments=(one.args[0], " green dog", one.args[2])) for one in asked)]
    found = lm.loglikelihood(both, disable_tqdm=True)
    expected = [one_at_a_time(lm, one) for one in both]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-5)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl", "gemma3", "qwen3_vl"])
def test_steering_moves_picture_requests_and_strength_zero_does_not(family, tiny_vision, tmp_path):
    plain = GrainsHF.create_from_arg_obj(
        {"pretrained": str(tiny_vision(family)), "dtype": "float32"}, {"device": "cpu", "batch_size": 3}
    )
    width = plain.model.config.get_text_config().hidden_size
    vectors = SteeringVectors({1: torch.linspace(-1, 1, width)}, {1: 5.0})
    asked = scoring_requests()[:4]
    writing = generation_requests()[:2]
    expected = plain.loglikelihood(asked, disable_tqdm=True), plain.generate_until(writing, disable_tqdm=True)
    with steered(plain.model, vectors, SteeringConfig(strength=2.0)):
        by_hand = [one_at_a_time(plain, one)[0] for one in asked]
    save_vectors(vectors, tmp_path / "vectors")
    for strength in (0, 2):
        lm = GrainsHF.create_from_arg_obj(
            {
                "pretrained": str(tiny_vision(family)),
                "dtype": "float32",
                "vectors": str(tmp_path / "vectors"),
                "strength": strength,
            },
            {"device": "cpu", "batch_size": 3},
        )
        scored = lm.loglikelihood(asked, disable_tqdm=True)
        written = lm.generate_until(writing, disable_tqdm=True)
        if strength == 0:
            assert (scored, written) == expected
        else:
            assert [score for score, _ in scored] == pytest.approx(by_hand, abs=1e-5)
            assert min(abs(a - b) for a, (b, _) in zip(by_hand, expected[0], strict=True)) > 1e-3
            assert written != expected[1]
