"""The tokenizer is the same on every run, and gives back every string."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from factlife.corpora.fact_probes import load_fact_probes
from factlife.training import train_tokenizer

VOCAB = 500
CODE = f"""
import hashlib
from factlife.corpora.fact_probes import load_fact_probes
from factlife.training import train_tokenizer
texts = [f"{{p}} {{f.answer}}" for f, _, p in load_fact_probes().prompts()]
trained = train_tokenizer(texts, {VOCAB}).backend_tokenizer.to_str()
print(hashlib.sha256(trained.encode()).hexdigest())
"""


def texts() -> list[str]:
    return [f"{prompt} {fact.answer}" for fact, _, prompt in load_fact_probes().prompts()]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(texts(), VOCAB)


def test_threads_and_hash_seeds_change_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    digests = {hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()}
    for parallel, hash_seed in (("true", "0"), ("false", "1")):
        environment = {
            **os.environ,
            "TOKENIZERS_PARALLELISM": parallel,
            "PYTHONHASHSEED": hash_seed,
        }
        done = subprocess.run(
            [sys.executable, "-c", CODE], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout.strip())
    assert len(digests) == 1


@given(st.text())
def test_every_string_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    if "<|" not in text:
        assert tokenizer.decode(ids) == text


def test_a_saved_tokenizer_loads_as_an_ordinary_one(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("Neuschwanstein Castle is in Füssen", " a blank in front", "naïve — €5"):
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert again.decode(again(text)["input_ids"]) == text
    assert (again.eos_token_id, again.pad_token_id, len(again)) == (0, 1, VOCAB)


def test_nothing_is_added_and_offsets_are_those_of_characters(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    text = "The castle stands in Füssen today"
    encoded = tokenizer(text, return_offsets_mapping=True)
    spans = encoded["offset_mapping"]
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    # tokens inside one character (ü is two bytes) share its span; else spans follow one another
    assert all(a[1] >= b[0] for a, b in itertools.pairwise(spans))
    begin, end = text.index("Füssen"), text.index("Füssen") + len("Füssen")
    covered = {i for a, b in spans for i in range(a, b)}
    assert covered == set(range(len(text)))
    assert set(range(begin, end)) <= covered
