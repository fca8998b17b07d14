"""Spans come from one encoding of the whole sentence."""

from __future__ import annotations

from typing import Any

import pytest
from tests.tiny import byte_level_tokenizer, metaspace_tokenizer

from factlife.corpora.fact_probes import load_fact_probes
from factlife.corpora.prompts import MERGED, Prompt, encode
from factlife.errors import UsageError

MAKERS = {
    "byte_level": byte_level_tokenizer,
    "byte_level_bos": lambda: byte_level_tokenizer(bos=True),
    "metaspace": metaspace_tokenizer,
}


@pytest.fixture(scope="module", params=sorted(MAKERS))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return MAKERS[request.param]()


def test_the_spans_decode_to_subject_and_answer_for_every_prompt(tokenizer: Any) -> None:
    probes = load_fact_probes()
    prompts = [Prompt(t.text, f.subject, f.answer) for f, t, _ in probes.prompts()]
    for prompt, encoded in zip(prompts, encode(tokenizer, prompts), strict=True):
        assert encoded.reason is None
        answer = tokenizer.decode(encoded.ids[slice(*encoded.answer)])
        assert answer.strip() == prompt.answer
        # the subject's tokens may carry the template's punctuation, never lack a letter
        assert prompt.subject in tokenizer.decode(encoded.ids[slice(*encoded.subject)])
        assert encoded.answer[1] == len(encoded.ids)


def test_the_prompt_before_the_answer_is_what_a_user_would_type(tokenizer: Any) -> None:
    prompt = Prompt("Who is the CEO of {}? Their name is", "Tesla, Inc.", "Elon Musk")
    (encoded,) = encode(tokenizer, [prompt])
    typed = tokenizer(prompt.prefix)["input_ids"]
    assert list(encoded.ids[: encoded.answer[0]]) == typed


def test_bos_is_what_was_asked_for() -> None:
    tokenizer = byte_level_tokenizer(bos=True)
    prompt = Prompt("{} is from the country of", "Sushi", "Japan")
    (auto,), (never,), (always,) = (
        encode(tokenizer, [prompt], b) for b in ("auto", "never", "always")
    )
    assert auto.ids == always.ids
    assert auto.ids == (tokenizer.bos_token_id, *never.ids)
    assert auto.answer == tuple(x + 1 for x in never.answer)
    plain = byte_level_tokenizer()
    (added,) = encode(plain, [prompt], "always")
    assert added.ids[0] == plain.bos_token_id


def test_an_eos_behind_the_text_is_not_part_of_the_answer() -> None:
    from tokenizers import processors

    tokenizer = byte_level_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    (encoded,) = encode(tokenizer, [Prompt("{} is from the country of", "Sushi", "Japan")])
    assert tokenizer.decode(encoded.ids[slice(*encoded.answer)]) == " Japan"
    assert encoded.ids[-1] != 0


def test_an_answer_that_shares_a_token_with_the_template_is_dropped_with_its_reason() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # One token covers "of Japan": no position before the answer predicts the answer alone.
    vocab = {"[UNK]": 0, "Sushi is from": 1, " of Japan": 2}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Split(" of Japan", behavior="isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]")
    (encoded,) = encode(tokenizer, [Prompt("{} is from of", "Sushi", "Japan")])
    assert encoded.reason == MERGED


def test_a_prompt_longer_than_the_context_is_dropped_with_its_reason() -> None:
    (encoded,) = encode(
        byte_level_tokenizer(),
        [Prompt("{} is from the country of", "Sushi", "Japan")],
        max_length=3,
    )
    assert encoded.reason is not None
    assert "longer than the model's context" in encoded.reason
    assert "> 3 tokens" in encoded.reason


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(UsageError, match="no character offsets"):
        encode(Slow(), [Prompt("{} is", "a", "b")])


def test_always_without_a_bos_token_is_refused() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(UsageError, match="no BOS token"):
        encode(tokenizer, [Prompt("{} is", "a", "b")], "always")
