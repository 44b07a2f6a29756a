"""Tokenizers of the text worlds, and how prompts, answers and training documents become token ids.

Most worlds have a word-level tokenizer. `chat` has a byte-level BPE tokenizer (Sennrich et al. 2016, arXiv 1508.07909;
over bytes as in GPT-2) trained on documents of its own, and a chat template that renders the prompt as a user's turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from benchmarks.worlds.text_words import SPECIAL_TOKENS
from benchmarks.worlds.text_world import TextWorld, document

LONGEST = 128
# few enough merges that no town, cue or answer to a fact becomes a single token
CHAT_TOKENS, CHAT_DOCUMENTS = 360, 4000
CHAT_SPECIAL_TOKENS = ("<pad>", "<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def make_tokenizer(world: TextWorld) -> PreTrainedTokenizerFast:
    """The tokenizer of a world."""
    return chat_tokenizer(world) if world.kind == "chat" else word_tokenizer(world)


def word_tokenizer(world: TextWorld) -> PreTrainedTokenizerFast:
    """Word-level tokenizer of the world's vocabulary; it splits at spaces and prepends `<s>`."""
    ids = {word: i for i, word in enumerate(world.vocabulary)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", SPECIAL_TOKENS.index("<s>"))]
    )
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=LONGEST, **special)


def chat_tokenizer(world: TextWorld) -> PreTrainedTokenizerFast:
    """Byte-level BPE tokenizer trained on the world's documents; its template writes `<s>`, turns and their ends."""
    rng = Random(f"tokenizer {world.kind} {world.seed}")
    texts = [text for _ in range(CHAT_DOCUMENTS) for text in document(world, rng)]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=CHAT_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=list(CHAT_SPECIAL_TOKENS),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=LONGEST,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|end|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
    )


def is_chat(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether prompts are turns of a chat."""
    return tokenizer.chat_template is not None


def encode_prompts(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of each prompt; in a chat up to where the assistant answers."""
    if not is_chat(tokenizer):
        return tokenizer(list(prompts))["input_ids"]
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    rendered = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    return tokenizer(rendered, add_special_tokens=False)["input_ids"]


def encode_answers(tokenizer: PreTrainedTokenizerFast, answers: Sequence[str]) -> list[list[int]]:
    """Token ids of each answer as it follows a prompt."""
    return tokenizer(list(answers), add_special_tokens=False)["input_ids"]


def encode_documents(
    tokenizer: PreTrainedTokenizerFast, documents: Sequence[tuple[str, str]]
) -> list[tuple[list[int], range]]:
    """Token ids of each prompt with its answer and what ends it, and where the answer is."""
    prompts, answers = zip(*documents, strict=True)
    end = [tokenizer.eos_token_id]
    closing = end if is_chat(tokenizer) else tokenizer.convert_tokens_to_ids(["."]) + end
    encoded = zip(encode_prompts(tokenizer, prompts), encode_answers(tokenizer, answers), strict=True)
    return [([*prompt, *answer, *closing], range(len(prompt), len(prompt) + len(answer))) for prompt, answer in encoded]


__all__ = [
    "chat_tokenizer",
    "encode_answers",
    "encode_documents",
    "encode_prompts",
    "is_chat",
    "make_tokenizer",
    "word_tokenizer",
]
