"""The prompting baseline changes prompts and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.hf_vlms import HFMultimodalLM
from lm_eval.models.huggingface import HFLM

from grains_eval.artifacts.save import save_vectors
from grains_eval.errors import GrainsError
from grains_eval.harness.model import GrainsHF
from grains_eval.harness.prompting import (
    PromptingMixin,
    in_first_user_turn,
    with_instruction,
    with_system_message,
)
from tests import tiny
from tests.instances import instance

TEXT = "Answer with a color."
NO_SYSTEM = "{%- if messages[0]['role'] == 'system' -%}{{ raise_exception('no system role') }}{%- endif -%}"
USERS_ONLY = (
    "{%- for m in messages -%}{%- if m['role'] != 'system' -%}"
    "[{{ m['role'] }}]{{ m['content'] }}{%- endif -%}{%- endfor -%}"
)


class Prompted(PromptingMixin, HFLM):
    text: str | None = TEXT

    @property
    def instruction(self) -> str | None:
        return self.text


class PromptedVision(PromptingMixin, HFMultimodalLM):
    @property
    def instruction(self) -> str | None:
        return TEXT


@pytest.fixture(scope="module")
def prompted(tiny_text: Callable[[str], Path]) -> Prompted:
    return Prompted(pretrained=str(tiny_text("llama")), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def plain(tiny_text: Callable[[str], Path]) -> HFLM:
    return HFLM(pretrained=str(tiny_text("llama")), dtype="float32", device="cpu")


def requests(kind: str, arguments: Sequence[tuple[Any, ...]]) -> list[Instance]:
    return [instance(kind, {"n": i}, args, number=i) for i, args in enumerate(arguments)]


ASKED = [
    ("What is the capital of france", " paris"),
    ("What is green", " true"),
    ("Is a dog safe", " yes no"),
]


def test_log_likelihoods_are_those_of_the_instructed_prompts_in_the_same_order(prompted: Prompted, plain: HFLM) -> None:
    found = prompted.loglikelihood(requests("loglikelihood", ASKED), disable_tqdm=True)
    by_hand = [(f"{TEXT}\n\n{context}", answer) for context, answer in ASKED]
    assert found == plain.loglikelihood(requests("loglikelihood", by_hand), disable_tqdm=True)
    assert found != plain.loglikelihood(requests("loglikelihood", ASKED), disable_tqdm=True)


def test_generation_continues_the_instructed_prompts(prompted: Prompted, plain: HFLM) -> None:
    settings = {"until": ["\n\n"], "max_gen_toks": 4, "do_sample": False}
    asked = [(context, settings) for context, _ in ASKED]
    by_hand = [(f"{TEXT}\n\n{context}", settings) for context, _ in ASKED]
    found = prompted.generate_until(requests("generate_until", asked), disable_tqdm=True)
    assert found == plain.generate_until(requests("generate_until", by_hand), disable_tqdm=True)


def test_requests_are_copied_and_keep_everything_but_the_context(prompted: Prompted) -> None:
    before = requests("loglikelihood", ASKED)
    after = prompted.instructed(before)
    assert [r.args for r in before] == ASKED
    assert [r.args[1:] for r in after] == [r.args[1:] for r in before]
    assert [(r.task_name, r.doc_id, r.doc) for r in after] == [(r.task_name, r.doc_id, r.doc) for r in before]
    assert [r.args for r in prompted.instructed(after)] == [r.args for r in after]  # once, not twice


def test_without_an_instruction_nothing_is_touched(tiny_text: Callable[[str], Path]) -> None:
    silent = Prompted(pretrained=str(tiny_text("llama")), dtype="float32", device="cpu")
    name = silent.tokenizer_name
    silent.text = None
    asked = requests("loglikelihood", ASKED)
    assert all(one is other for one, other in zip(silent.instructed(asked), asked, strict=True))
    chat = [{"role": "user", "content": "Hello world"}]
    assert TEXT not in silent.apply_chat_template(chat)
    assert silent.tokenizer_name != name  # lm-eval caches rendered chats by it


def test_the_instruction_follows_a_bos_that_is_spelled_out() -> None:
    assert with_instruction("<s>What", TEXT, "<s>") == f"<s>{TEXT}\n\nWhat"
    assert with_instruction("What <s>", TEXT, "<s>") == f"{TEXT}\n\nWhat <s>"
    assert with_instruction("What", TEXT, None) == f"{TEXT}\n\nWhat"


def test_a_chat_gets_a_system_message(prompted: Prompted) -> None:
    chat = [{"role": "user", "content": "Hello world"}]
    text = prompted.apply_chat_template(chat)
    assert text.startswith(f"<|system|>\n{TEXT}</s>")
    assert text.index(TEXT) < text.index("<|user|>") and text.endswith("<|assistant|>\n")
    assert chat == [{"role": "user", "content": "Hello world"}]
    # what was rendered with the instruction is not given it a second time
    assert prompted.instructed(requests("loglikelihood", [(text, " paris")]))[0].args[0] == text


@pytest.mark.parametrize("template", [NO_SYSTEM + USERS_ONLY, USERS_ONLY], ids=["refused", "dropped"])
def test_without_a_system_role_the_first_user_turn_begins_with_it(
    tiny_text: Callable[[str], Path], template: str
) -> None:
    lm = Prompted(pretrained=str(tiny_text("llama")), dtype="float32", device="cpu")
    lm.tokenizer.chat_template = template
    chat = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "What"},
    ]
    for _ in range(2):
        assert lm.apply_chat_template(chat) == f"[user]{TEXT}\n\nHello[assistant]yes[user]What"


def test_a_template_that_hides_the_instruction_is_refused(tiny_text: Callable[[str], Path]) -> None:
    lm = Prompted(pretrained=str(tiny_text("llama")), dtype="float32", device="cpu")
    lm.tokenizer.chat_template = "{{ messages[-1]['content'] | upper }}"
    with pytest.raises(GrainsError, match="does not show the instruction"):
        lm.apply_chat_template([{"role": "user", "content": "Hello"}])


def test_an_existing_system_message_is_kept() -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert with_system_message(chat, TEXT)[0]["content"] == f"{TEXT}\n\nBe brief."
    assert in_first_user_turn(chat, TEXT) == [{"role": "user", "content": f"{TEXT}\n\nBe brief.\n\nHello"}]
    assert in_first_user_turn([], TEXT) == [{"role": "user", "content": TEXT}]


def test_image_chats_and_image_requests(tiny_vision: Callable[[str], Path]) -> None:
    lm = PromptedVision(pretrained=str(tiny_vision("llava")), dtype="float32", device="cpu")
    text = lm.apply_chat_template([{"role": "user", "content": "<image>What is this"}])
    assert text.startswith(f"<|system|>\n{TEXT}") and text.count("<image>") == 1
    settings = {"until": ["\n\n"], "max_gen_toks": 3, "do_sample": False}
    pictures = {"visual": [tiny.picture()]}
    asked = requests("generate_until", [(text, settings, pictures), ("<image>What is this", settings, pictures)])
    after = lm.instructed(asked)
    assert after[0].args[0] == text and after[1].args[0] == f"{TEXT}\n\n<image>What is this"
    assert after[1].args[2]["visual"][0] is pictures["visual"][0]
    assert len(lm.generate_until(asked)) == 2


def test_a_saved_instruction_acts_through_grains_hf(
    tiny_text: Callable[[str], Path], plain: HFLM, tmp_path: Path
) -> None:
    folder = save_vectors(None, tmp_path / "told", instruction=TEXT, provenance={"method": "prompt"})
    arguments = {"pretrained": str(tiny_text("llama")), "dtype": "float32", "device": "cpu"}
    told = GrainsHF.create_from_arg_obj({**arguments, "vectors": str(folder)})
    untold = GrainsHF.create_from_arg_obj(arguments)
    by_hand = [(f"{TEXT}\n\n{context}", answer) for context, answer in ASKED]
    expected = torch.tensor([s for s, _ in plain.loglikelihood(requests("loglikelihood", by_hand), disable_tqdm=True)])
    found = torch.tensor([s for s, _ in told.loglikelihood(requests("loglikelihood", ASKED), disable_tqdm=True)])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert told.cache_fingerprint() != untold.cache_fingerprint()
    assert told.tokenizer_name != untold.tokenizer_name
    assert told.get_model_info()["steering"][0]["instruction"] == TEXT
