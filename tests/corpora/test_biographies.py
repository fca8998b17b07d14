"""People, their values and template splits; text and tokens; distributions over people."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factlife.corpora.biographies import (
    Celebrities,
    Distribution,
    Encoder,
    Population,
    PowerLaw,
    Replay,
    Sampler,
    Sequential,
    Uniform,
    WarmUp,
    WordTokenizer,
    all_attributes,
    capacity,
    draw,
    texts,
)
from factlife.corpora.biographies.content import choose_attributes, name_lists
from factlife.corpora.fictional.tokens import FAMILIES, train
from factlife.errors import UsageError

PILOT = ("birth_place", "current_location", "university", "major")
GOLDEN_SPLIT = [24, 8, 20, 15, 5]


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _encoder(population: Population) -> Encoder:
    tokenizer = WordTokenizer(population)
    return Encoder(population, tokenizer.encode, pad=tokenizer.pad, bos=tokenizer.bos)


# ---- lists -----------------------------------------------------------------------------------


def test_the_lists_have_the_published_sizes_and_loss() -> None:
    sizes = {name: a.n_values for name, a in all_attributes().items()}
    assert sizes == {
        "birth_place": 800,
        "current_location": 800,
        "university": 200,
        "major": 100,
        "company": 500,
        "birth_date": 74_400,  # 200 years x 12 months x 31 days
    }
    # (2 ln 800 + ln 200 + ln 100 + ln 500 + ln 74400) / 6
    # = (13.3692 + 5.2983 + 4.6052 + 6.2146 + 11.2172) / 6 = 40.7045 / 6 = 6.7841
    assert Population.make(1, 0).baseline_nats() == pytest.approx(6.784, abs=5e-4)


def test_no_word_is_in_two_lists() -> None:
    lists = [set(part) for part in name_lists()]
    for a in all_attributes().values():
        lists.append({word for part in a.parts for value in part for word in value.split()})
    lists.append({w for a in all_attributes().values() for t in a.templates for w in t.split()})
    assert [w for w, n in Counter(w for words in lists for w in words).items() if n > 1] == []
    for part in name_lists():
        assert len(set(part)) == len(part)


def test_every_value_has_a_number_and_a_text_of_its_own() -> None:
    for attribute in all_attributes().values():
        values = {attribute.value(i) for i in range(attribute.n_values)}
        assert len(values) == attribute.n_values
    # 1 + 31 * (2 + 12 * 54): second day, third month, 55th year from 1900.
    assert all_attributes()["birth_date"].value(1 + 31 * (2 + 12 * 54)) == "2 March 1954"


@pytest.mark.parametrize("values", [2, 31, 32, 400, 100_000])
def test_shortened_lists_make_so_many_values(values: int) -> None:
    for full, attribute in zip(
        all_attributes().values(), choose_attributes(values=values), strict=True
    ):
        expected = min(values, full.n_values)
        assert attribute.n_values == expected
        assert [attribute.value(i) for i in range(expected)] == [
            full.value(i) for i in range(expected)
        ]
        # No part is longer than the values need: 400 dates take 31 days, 12 months, 2 years.
        used = {w for i in range(expected) for w in attribute.value(i).split()}
        assert {w for part in attribute.parts for v in part for w in v.split()} == used


# ---- populations -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def population() -> Population:
    return Population.make(3_000, 7, unseen=500, new=200)


def test_the_groups_follow_one_another_and_no_two_people_share_a_name(
    population: Population,
) -> None:
    assert population.n == 3_700
    assert population.known.tolist() == list(range(3_000))
    assert population.unseen.tolist() == list(range(3_000, 3_500))
    assert population.new.tolist() == list(range(3_500, 3_700))
    assert len({population.full_name(i) for i in range(population.n)}) == population.n


def test_more_than_256_thousand_people_have_names_of_their_own() -> None:
    many = Population.make(300_000, 1, attributes=("major",))
    assert len(np.unique(many.name, axis=0)) == 300_000
    assert capacity() > 70_000_000


def test_values_are_uniform_and_independent(population: Population) -> None:
    value = population.value
    for column, attribute in zip(value.T, population.attributes, strict=True):
        assert column.min() >= 0 and column.max() < attribute.n_values
        # Uniform on [0, K): the mean of 3700 draws is (K-1)/2 within 4 of K/sqrt(12*3700).
        slack = 4 * attribute.n_values / math.sqrt(12 * len(column))
        assert abs(column.mean() - (attribute.n_values - 1) / 2) < slack
    correlation = np.corrcoef(value.T) - np.eye(6)
    assert np.abs(correlation).max() < 4 / math.sqrt(len(value))


def test_each_person_has_a_split_of_its_own(population: Population) -> None:
    assert (np.sort(population.templates, axis=2) == np.arange(25)).all()
    # A template is kept for tests by 5 of 25 people: 740 of 3700, within 4 standard deviations
    # of sqrt(3700 * 0.2 * 0.8) = 24.3.
    for a in range(6):
        held = np.bincount(population.templates[:, a, 20:].ravel(), minlength=25)
        assert np.abs(held - 740).max() < 100
    # The splits of two attributes have nothing to do with each other: 5 * 5/25 = 1 in common.
    same = [
        len(set(row[0, 20:].tolist()) & set(row[1, 20:].tolist())) for row in population.templates
    ]
    assert np.mean(same) == pytest.approx(1.0, abs=0.06)


def test_a_person_of_a_seed_is_the_same_in_every_population(population: Population) -> None:
    small = Population.make(40, 7, attributes=("company", "birth_place"))
    assert (small.name == population.name[:40]).all()
    assert (small.value == population.value[:40][:, [4, 0]]).all()
    assert (small.templates == population.templates[:40][:, [4, 0]]).all()
    other = Population.make(40, 8)
    assert (other.name != population.name[:40]).any()
    assert (other.value != population.value[:40]).any()


def test_these_very_people_come_out_on_every_machine() -> None:
    golden = Population.make(2, 2025)
    assert golden.full_name(0) == "Ingrid Tabitha Ingberry"
    assert golden.value_text(0, 0) == "Honeybrook"
    assert golden.templates[0, 0, 20:].tolist() == GOLDEN_SPLIT


def test_entropy_by_hand() -> None:
    made = Population.make(4, 0, attributes=("major", "university"))
    made.value[:] = [[0, 5], [0, 6], [1, 7], [1, 8]]
    # Two values of two people each: ln 2; four of one each: ln 4; their mean is 1.5 ln 2.
    assert made.entropy_nats() == pytest.approx(1.5 * math.log(2))
    assert made.entropy_nats(np.array([0, 1])) == pytest.approx(0.5 * math.log(2))
    assert made.baseline_nats() == pytest.approx((math.log(100) + math.log(200)) / 2)


def test_small_studies_have_the_pilot_baseline() -> None:
    pilot = Population.make(64, 0, attributes=PILOT, values=32)
    assert pilot.baseline_nats() == pytest.approx(3.466, abs=5e-4)  # ln 32
    assert len(WordTokenizer(pilot)) < len(WordTokenizer(Population.make(1, 0)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "people must be 1 or more"),
        ({"n": 3, "unseen": -1}, "people must be 1 or more"),
        ({"n": 80_000_000}, "80000000 people, but the names allow 76728000"),
        ({"n": 7, "unseen": 2, "names": (2, 2, 2)}, "9 people, but the names allow 8"),
        ({"n": 7, "names": (2, 2)}, "names must be three sizes from 1 to 278, 276, 1000"),
        ({"n": 7, "names": (2, 2, 1001)}, "names must be three sizes"),
        ({"n": 7, "attributes": ("shoe_size",)}, "no templates for the attribute 'shoe_size'"),
        ({"n": 7, "attributes": ()}, "attributes must be one or more"),
        ({"n": 7, "attributes": ("major", "major")}, "attributes must be one or more, each once"),
        ({"n": 7, "values": 1}, "values must be at least 2"),
        ({"n": 7, "seed": -1}, "seed must be at least 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Population.make(**{"seed": 0, **arguments})


def test_as_many_people_as_the_names_allow_can_be_had() -> None:
    full = Population.make(50, 3, unseen=10, names=(3, 4, 5))
    assert len({full.full_name(i) for i in range(60)}) == 60


# ---- biographies -----------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 30),
    unseen=st.integers(0, 10),
    attributes=st.lists(st.sampled_from([*all_attributes()]), min_size=1, unique=True),
    draws=st.integers(0, 2**32),
)
def test_no_template_of_a_persons_tests_is_in_its_training_text(
    seed: int, n: int, unseen: int, attributes: list[str], draws: int
) -> None:
    made = Population.make(n, seed, unseen=unseen, attributes=attributes)
    people = np.repeat(np.arange(made.n), 8)
    rng = _rng(draws)
    for text, person in zip(texts(made, draw(made, people, rng)), people, strict=True):
        for a in range(len(attributes)):
            tests = made.templates[person, a, 20:]
            assert all(made.sentence(int(person), a, int(t)) not in text for t in tests)
            trained = made.templates[person, a, :20]
            assert sum(made.sentence(int(person), a, int(t)) in text for t in trained) == 1
    tested = draw(made, people, rng, pool="eval")
    for person, order, template in zip(people, tested.order, tested.template, strict=True):
        for a, t in zip(order, template, strict=True):
            assert t in made.templates[person, a, 20:]


def test_every_training_template_and_order_comes_up_and_texts_are_fresh() -> None:
    made = Population.make(1, 0)
    drawn = draw(made, np.zeros(4_000, np.int64), _rng())
    for a in range(6):
        used = np.bincount(drawn.template[drawn.order == a], minlength=25)
        assert set(np.flatnonzero(used)) == set(made.templates[0, a, :20].tolist())
        # 4000 / 20 = 200 each, within 5 standard deviations of 13.8.
        assert np.abs(used[used > 0] - 200).max() < 70
        # Each attribute stands in each place about 4000 / 6 = 667 times (standard deviation 23.6).
        assert np.abs((drawn.order == a).sum(axis=0) - 4_000 / 6).max() < 120
    assert len(set(texts(made, drawn))) > 3_990


def test_a_sentence_by_hand() -> None:
    made = Population.make(1, 2025)
    assert made.sentence(0, 0, 0) == "Ingrid Tabitha Ingberry was born in Honeybrook ."


def test_an_unknown_pool_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown template pool 'test'; use one of train, eval"):
        draw(Population.make(2, 0), np.array([0]), _rng(), "test")


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    attributes=st.lists(st.sampled_from([*all_attributes()]), min_size=1, unique=True),
    values=st.one_of(st.none(), st.integers(2, 40)),
    pool=st.sampled_from(["train", "eval"]),
    bos=st.booleans(),
    data=st.data(),
)
def test_assembled_tokens_are_the_tokens_of_the_text(
    seed: int, attributes: list[str], values: int | None, pool: str, bos: bool, data: st.DataObject
) -> None:
    made = Population.make(12, seed, unseen=4, attributes=attributes, values=values)
    people = np.array(data.draw(st.lists(st.integers(0, 15), min_size=1, max_size=9)), np.int64)
    tokenizer = WordTokenizer(made)
    encoder = Encoder(made, tokenizer.encode, pad=tokenizer.pad, bos=tokenizer.bos if bos else None)
    drawn = draw(made, people, _rng(seed), pool)
    batch = encoder.assemble(drawn)
    start = [tokenizer.bos] if bos else []
    wanted = [start + tokenizer.encode(text) for text in texts(made, drawn)]
    assert [row[mask].tolist() for row, mask in zip(batch.ids, batch.mask, strict=True)] == wanted
    assert batch.lengths.tolist() == [len(row) for row in wanted]
    assert batch.ids.shape == (len(people), max(map(len, wanted)))
    assert (batch.ids[~batch.mask] == tokenizer.pad).all()
    for i, person in enumerate(people):
        for s, a in enumerate(batch.order[i]):
            spans = [
                tokenizer.decode(batch.ids[i, x[i, s] : y[i, s]])
                for x, y in (
                    (batch.name_start, batch.name_end),
                    (batch.last_name, batch.name_end),
                    (batch.value_start, batch.value_end),
                )
            ]
            name = made.full_name(int(person))
            assert spans == [name, name.split()[2], made.value_text(int(person), int(a))]
            assert batch.predicting[i, s] == batch.value_start[i, s] - 1
            assert tokenizer.decode([batch.ids[i, batch.value_end[i, s]]]) == "."


def test_equal_seeds_give_equal_batches() -> None:
    encoder = _encoder(Population.make(50, 0))
    one, two, other = (encoder.biographies(np.arange(20), _rng(s)) for s in (1, 1, 2))
    assert (one.ids == two.ids).all()
    assert one.ids.shape != other.ids.shape or (one.ids != other.ids).any()


def test_an_unknown_word_is_refused() -> None:
    tokenizer = WordTokenizer(Population.make(2, 0, attributes=("major",)))
    with pytest.raises(UsageError, match="the word 'Zebra' is not in the vocabulary"):
        tokenizer.encode("majored in Zebra")


@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_values_are_the_same_tokens_everywhere(family: str) -> None:
    """Under tokenizers of three makes, names and values never melt with what is beside them."""
    pytest.importorskip("tokenizers")
    made = Population.make(400, 3)
    drawn = draw(made, made.known, _rng())
    encode = train(family, texts(made, drawn), vocabulary=1_500)
    encoder = Encoder(made, encode, pad=0)
    batch = encoder.assemble(drawn)
    for row, n, text in zip(batch.ids, batch.lengths, texts(made, drawn), strict=True):
        assert row[:n].tolist() == encode(f" {text}")
    for i in range(100):
        for s, a in enumerate(batch.order[i]):
            value = batch.ids[i, batch.value_start[i, s] : batch.value_end[i, s]]
            assert value.tolist() == encode(f" {made.value_text(i, int(a))}")
            name = batch.ids[i, batch.name_start[i, s] : batch.name_end[i, s]]
            assert name.tolist() == encode(f" {made.full_name(i)}")


def test_a_tokenizer_that_melts_a_value_with_the_full_stop_is_refused() -> None:
    made = Population.make(4, 0, attributes=("major",))

    def encode(text: str) -> list[int]:
        """Letters, but one token for the last letter of a word with the full stop behind it."""
        return [0 if text[i + 1 : i + 3] == " ." else ord(c) for i, c in enumerate(text)]

    with pytest.raises(UsageError, match="the tokenizer melts names or values"):
        Encoder(made, encode, pad=0)


# ---- distributions ---------------------------------------------------------------------------


def _share(distribution: Distribution, step: int) -> np.ndarray:
    weights = distribution.weights(distribution.phase(step))
    return np.asarray(weights / weights.sum())


def test_weights_by_hand() -> None:
    assert _share(Uniform(4), 0).tolist() == [0.25] * 4
    # 1, 1/2, 1/3, 1/4 over 25/12.
    assert _share(PowerLaw(4, 1.0), 9) == pytest.approx([12 / 25, 6 / 25, 4 / 25, 3 / 25])
    assert _share(PowerLaw(3, 0.0), 9) == pytest.approx([1 / 3] * 3)
    # 1, 4^-0.5 = 1/2 for the fourth.
    assert PowerLaw(4, 0.5).weights(0)[3] == pytest.approx(0.5)
    assert _share(Celebrities(5, 2, 3.0), 0) == pytest.approx([3 / 9, 3 / 9, 1 / 9, 1 / 9, 1 / 9])
    warm = WarmUp(4, 2, 10)
    assert _share(warm, 9).tolist() == [0.5, 0.5, 0, 0]
    assert _share(warm, 10).tolist() == [0.25] * 4
    groups = Sequential(5, 2, 10)
    assert _share(groups, 9) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])
    assert _share(groups, 10).tolist() == _share(groups, 99).tolist() == [0, 0, 0, 0.5, 0.5]


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 300), data=st.data())
def test_sequential_groups_part_the_people_evenly(n: int, data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, n))
    distribution = Sequential(n, groups, 1)
    weights = np.array([distribution.weights(g) for g in range(groups)])
    assert (weights.sum(axis=0) == 1).all()
    sizes = weights.sum(axis=1)
    assert sizes.min() >= 1 and sizes.max() - sizes.min() <= 1


def test_the_share_of_replay_by_hand() -> None:
    # w N / (w N + n) = 0.1 * 1000 / (0.1 * 1000 + 50) = 100 / 150
    replay = Replay(1_000, 50, 0.1, n_unseen=20)
    assert replay.share == pytest.approx(2 / 3)
    weights = replay.weights(0)
    assert len(weights) == 1_070
    assert weights[:1_000].sum() / weights.sum() == pytest.approx(replay.share)
    assert weights[1_000:1_020].sum() == 0
    assert Replay(1_000, 50, 0.0).share == 0.0


@pytest.mark.parametrize(
    "distribution",
    [Uniform(8), PowerLaw(8, 0.7), Celebrities(8, 2, 10.0), WarmUp(8, 3, 5), Sequential(8, 3, 4)],
    ids=lambda d: type(d).__name__,
)
@pytest.mark.parametrize("step", [0, 5, 100])
def test_people_are_drawn_after_their_weights(distribution: Distribution, step: int) -> None:
    sampler, rng = Sampler(distribution), _rng(step)
    share = _share(distribution, step)
    batch = int(np.count_nonzero(share))
    drawn = np.concatenate([sampler.people(step, batch, rng) for _ in range(20_000 // batch)])
    found = np.bincount(drawn, minlength=8) / len(drawn)
    # At most sqrt(0.25 / 20000) = 0.0035 standard deviation.
    assert np.abs(found - share).max() < 0.015
    assert (found[share == 0] == 0).all()


def test_held_out_people_are_never_drawn_in_training_nor_in_fine_tuning() -> None:
    made = Population.make(30, 0, unseen=20, new=10)
    held = set(made.unseen.tolist())
    rng = _rng()
    for distribution in (
        Uniform(made.n_known),
        PowerLaw(made.n_known, 0.5),
        WarmUp(made.n_known, 10, 50),
        Replay(made.n_known, made.n_new, 0.5, made.n_unseen),
    ):
        sampler = Sampler(distribution)
        seen = {int(i) for step in range(200) for i in sampler.people(step, 10, rng)}
        assert not seen & held
        assert max(seen) < made.n
    # The last distribution reaches old and new people alike.
    assert seen == set(range(made.n)) - held


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(2, 40),
    unseen=st.integers(1, 20),
    names=st.sampled_from([None, (4, 4, 4)]),
    alpha=st.floats(0, 1),
)
def test_no_name_of_a_held_out_person_is_in_the_training_text(
    seed: int, n: int, unseen: int, names: tuple[int, int, int] | None, alpha: float
) -> None:
    # With 4 x 4 x 4 names, known and held-out people share most of their single names.
    made = Population.make(n, seed, unseen=unseen, names=names, attributes=PILOT[:2])
    sampler, rng = Sampler(PowerLaw(n, alpha)), _rng(seed)
    people = np.concatenate([sampler.people(step, 2, rng) for step in range(3 * n)])
    text = "\n".join(texts(made, draw(made, people, rng)))
    assert not any(made.full_name(int(i)) in text for i in made.unseen)
    assert all(made.full_name(int(i)) in text for i in people)


class _Edges:
    """A generator whose uniform draws are the ends of [0, 1)."""

    def random(self, size: int) -> np.ndarray:
        return np.resize([0.0, np.nextafter(1.0, 0.0)], size)


def test_draws_at_the_ends_never_meet_a_person_of_weight_zero() -> None:
    ends = Sampler(Sequential(7, 3, 1))
    for step, (first, last) in enumerate([(0, 2), (3, 4), (5, 6)]):
        assert ends.people(step, 2, _Edges()).tolist() == [first, last]  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [0, 4])
def test_a_batch_larger_than_the_people_is_refused(batch: int) -> None:
    sampler = Sampler(WarmUp(8, 3, 5))
    with pytest.raises(UsageError, match=f"a batch of {batch} does not fit the 3 people"):
        sampler.people(0, batch, _rng())
    if batch:
        assert len(sampler.people(5, batch, _rng())) == batch


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PowerLaw(8, 1.01), "alpha must be between 0 and 1, got 1.01"),
        (lambda: PowerLaw(8, -0.1), "alpha must be between 0 and 1"),
        (lambda: PowerLaw(8, float("nan")), "alpha must be between 0 and 1"),
        (lambda: Celebrities(8, 9, 2.0), "celebrities must be 1 to 8"),
        (lambda: Celebrities(8, 2, 0.0), "the weight of a celebrity must be above 0"),
        (lambda: WarmUp(8, 9, 5), "a warm-up needs 1 to 8 people"),
        (lambda: WarmUp(8, 2, -1), "a warm-up takes 0 steps or more"),
        (lambda: Sequential(8, 9, 5), "groups must be 1 to 8"),
        (lambda: Sequential(8, 2, 0), "a group takes 1 step or more"),
        (lambda: Replay(8, 0, 1.0), "fine-tuning needs new people"),
        (lambda: Replay(8, 2, -1.0), "the weight of replay must be 0 or more"),
        (lambda: Uniform(0).weights(0), "at least 1 person"),
    ],
)
def test_settings_outside_their_range_are_refused(make: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()  # type: ignore[operator]
