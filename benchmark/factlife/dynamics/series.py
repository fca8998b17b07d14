"""The dynamics track on given checkpoints: attention to the subject, and corruption of facts.

Shapes: b rows, c tokens, p answer tokens, n facts.

The last checkpoint is fine-tuned on people that nobody has seen. Old knowledge is the facts whose
whole answer it gave before; they are measured with the source template and replayed in others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from factlife.config import Dynamics, Profile
from factlife.corpora.biographies import Encoder, Population, Sampler, all_attributes
from factlife.corpora.fact_probes import FactProbes
from factlife.corpora.prompts import Encoded, Prompt, encode
from factlife.dynamics.attention import eager
from factlife.dynamics.evaluate import Panel, eval_rows, make_panel, measure
from factlife.dynamics.finetune import RESTORABLE, Mixture, copy_weights, restored
from factlife.dynamics.metrics import GIVEN
from factlife.dynamics.phases import baseline, evaluation_steps
from factlife.dynamics.plan import RunSpec
from factlife.errors import UsageError
from factlife.scoring.targets import Target, batches, pad, target_logits, token_scores
from factlife.training.batches import NO_LOSS, Batch
from factlife.training.config import TrainingConfig
from factlife.training.loop import Trainer

Row = dict[str, Any]

EVALUATIONS = 10
SENTENCES = 2  # attributes of a new person: given tokenizers cut names into many tokens
UNMEASURED = -1  # the layer of a row without a measurement


# ---- attention to the subject ----------------------------------------------------------------


@torch.inference_mode()
def subject_attention(
    model: Any, prompts: Sequence[Encoded], batch_tokens: int, keys: Row
) -> list[Row]:
    """Rows of `subject_attention`: one a layer, mean over heads, then facts.

    Read from the model's own eager attention (dynamics-2025, section 4: extraction). A model
    without attention weights of its own gets one row with the reason.
    """
    usable = [p for p in prompts if p.reason is None]
    sums = np.zeros((0, 2))
    try:
        with eager(model):
            for batch in batches([len(p.ids) for p in usable], batch_tokens):
                found = _batch_attention(model, [usable[i] for i in batch])
                sums = found if not len(sums) else sums + found
    except (ValueError, NotImplementedError) as error:
        return [_unmeasured(keys, f"the model hands out no attention weights ({error})")]
    if not len(sums) or not np.isfinite(sums).all():
        return [_unmeasured(keys, "no attention weights, or some that are not finite")]
    means = sums / len(usable)
    return [
        {**keys, "layer": i, "mass": float(m), "sharpness": float(s), "n_facts": len(usable)}
        for i, (m, s) in enumerate(means)
    ]


def _unmeasured(keys: Row, reason: str) -> Row:
    return {**keys, "layer": UNMEASURED, "n_facts": 0, "reason": reason}


def _batch_attention(model: Any, prompts: Sequence[Encoded]) -> Any:
    """[L, 2] sums over prompts of mass on the subject and of sharpness.

    Raises:
        ValueError: the model has no attention weights to hand out.
    """
    device = next(model.parameters()).device
    padded = pad([p.ids for p in prompts], "right", device)
    try:
        out = model(
            input_ids=padded.ids, attention_mask=padded.mask, use_cache=False,
            output_attentions=True,
        )  # fmt: skip
    except TypeError as error:  # a forward that knows no such argument
        raise ValueError(str(error)) from error
    patterns = getattr(out, "attentions", None)
    if not patterns or any(a is None or a.dim() != 4 for a in patterns):
        raise ValueError("none came back")
    rows = torch.arange(len(prompts), device=device)
    at = torch.tensor([p.answer[0] - 1 for p in prompts], device=device)
    keys = torch.arange(padded.ids.shape[1], device=device)
    start, end = (torch.tensor([p.subject[k] for p in prompts], device=device) for k in (0, 1))
    on_subject = (keys >= start[:, None]) & (keys < end[:, None])
    visible = (at + 1).clamp(min=2).float().log()
    sums = []
    for pattern in patterns:
        looking = pattern[rows, :, at].float()
        mass = (looking * on_subject[:, None]).sum(-1).mean(1).sum()
        even = (torch.special.entr(looking).sum(-1).mean(1) / visible).sum()
        sums.append([float(mass), float(even)])
    return np.array(sums)


def source_prompts(
    tokenizer: Any, probes: FactProbes, profile: Profile, max_length: int | None
) -> list[Encoded]:
    """All facts in their relation's source template."""
    prompts = [
        Prompt(probes.relation(f.relation).source_template.text, f.subject, f.answer)
        for f in probes.facts
    ]
    return encode(tokenizer, prompts, profile.model.bos, max_length)


# ---- corruption ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Material:
    """What a given checkpoint is fine-tuned on.

    Attributes:
        known: the facts whose whole answer it gives, source template: what is measured.
        replay: of each of those facts, its sentences in other templates.
        encoder: writes biographies of new people.
        taught: panel of new people.
    """

    known: tuple[Encoded, ...]
    replay: tuple[tuple[tuple[int, ...], ...], ...]
    population: Population
    encoder: Encoder
    taught: Panel


def make_material(
    model: Any, tokenizer: Any, probes: FactProbes, profile: Profile, max_length: int | None
) -> Material:
    """Find what the model knows, and write what it shall learn.

    Raises:
        UsageError: it knows no fact, or its tokenizer melts names or values with what is beside
            them.
    """
    settings = profile.dynamics
    prompts = source_prompts(tokenizer, probes, profile, max_length)
    right = _right(model, prompts, profile.execution.batch_tokens)
    if not right:
        raise UsageError("the checkpoint knows none of the facts: nothing old can be corrupted")
    replay = []
    for i in right:
        fact = probes.facts[i]
        templates = probes.relation(fact.relation).templates
        others = [t for t in templates if t.role != "source"] or list(templates)
        texts = [Prompt(t.text, fact.subject, fact.answer) for t in others]
        replay.append(tuple(e.ids for e in encode(tokenizer, texts, profile.model.bos, max_length)))
    population, encoder, taught = new_people(tokenizer, settings)
    return Material(tuple(prompts[i] for i in right), tuple(replay), population, encoder, taught)


def new_people(tokenizer: Any, settings: Dynamics) -> tuple[Population, Encoder, Panel]:
    """Who is taught to a given checkpoint, and the panel of them that is read.

    Raises:
        UsageError: the tokenizer melts names or values with what is beside them.
    """
    population = Population.make(
        1,
        0,
        new=settings.new_people,
        attributes=list(all_attributes())[: min(SENTENCES, settings.attributes)],
        values=settings.values or None,
        names=settings.names or None,
    )
    fill = next((t for t in (tokenizer.pad_token_id, tokenizer.eos_token_id) if t is not None), 0)
    encoder = Encoder(
        population, lambda text: tokenizer(text, add_special_tokens=False).input_ids, pad=int(fill)
    )
    size = max(1, settings.eval_people * 3 // 8)
    return population, encoder, make_panel(encoder, "taught", population.new, size, 1)


def corruption_tokens(tokenizer: Any, profile: Profile) -> tuple[int, int]:
    """Tokens that fine-tuning a given checkpoint trains on, and those that it reads beside facts.

    Padding is counted. Zeros for a tokenizer with which it cannot be done.
    """
    settings = profile.dynamics
    try:
        taught = new_people(tokenizer, settings)[2].ids
    except UsageError:
        return 0, 0
    runs = len(given_runs(settings, 1, ""))
    return (
        runs * settings.fine_tune_steps * settings.batch_rows * taught.shape[1],
        runs * readings(settings) * taught.numel(),
    )


def readings(settings: Dynamics) -> int:
    """How often a fine-tuning reads facts and people: before, on the way, and restored."""
    due = [s for s in evaluation_steps(settings.fine_tune_steps, EVALUATIONS) if s > 0]
    return 1 + len(due) + len(RESTORABLE)


@torch.inference_mode()
def _right(model: Any, prompts: Sequence[Encoded], batch_tokens: int) -> list[int]:
    """Places of the prompts whose whole answer is the argmax."""
    usable = [i for i, p in enumerate(prompts) if p.reason is None]
    values = _fact_values(model, [prompts[i] for i in usable], batch_tokens)
    return [i for i, right in zip(usable, values["accuracy"], strict=True) if right]


@torch.inference_mode()
def _fact_values(
    model: Any, prompts: Sequence[Encoded], batch_tokens: int
) -> dict[str, list[float]]:
    """Loss, whether right, top probability and entropy of each fact."""
    names = ("loss_nats", "accuracy", "top_probability", "entropy_nats")
    found: list[tuple[float, ...]] = [()] * len(prompts)
    model.eval()
    for batch in batches([len(p.ids) for p in prompts], batch_tokens):
        chosen = [prompts[i] for i in batch]
        logits, wanted = target_logits(model, [Target(p.ids, *p.answer) for p in chosen])
        for i, values in zip(batch, _per_fact(logits, wanted, chosen), strict=True):
            found[i] = values
    return {n: [f[k] for f in found] for k, n in enumerate(names)}


def _per_fact(
    logits: Float[Tensor, "p v"], wanted: Int64[Tensor, " p"], prompts: Sequence[Encoded]
) -> Iterator[tuple[float, ...]]:
    logprob, rank = token_scores(logits, wanted)
    sizes = [p.n_answer for p in prompts]
    for lp, rk, lg in zip(
        logprob.split(sizes), rank.split(sizes), logits.split(sizes), strict=True
    ):
        q = torch.softmax(lg[0], dim=-1)
        entropy = float(torch.special.entr(q).sum())
        yield -float(lp.double().sum()), float((rk == 0).all()), float(q.max()), entropy


class MaterialSource:
    """Batches of new people's biographies and, with weight, of known facts."""

    def __init__(self, material: Material, batch_rows: int, weight: float, seed: int) -> None:
        self._material, self._rows, self._seed, self._batch = material, batch_rows, seed, 0
        self._n_old = len(material.known)
        n = self._n_old + material.population.n_new
        old, taught = np.arange(self._n_old), np.arange(self._n_old, n)
        self._sampler = Sampler(Mixture(n, old, taught, weight))

    def next_batch(self) -> Batch:
        """The next batch. Raises UsageError when it is larger than the people to draw from."""
        rng = np.random.default_rng([self._seed, self._batch])
        drawn = self._sampler.people(self._batch, self._rows, rng)
        self._batch += 1
        m = self._material
        people = m.population.new[drawn[drawn >= self._n_old] - self._n_old]
        rows = [m.replay[i][rng.integers(len(m.replay[i]))] for i in drawn[drawn < self._n_old]]
        if len(people):
            made = m.encoder.biographies(people, rng)
            rows += [tuple(r[:k].tolist()) for r, k in zip(made.ids, made.lengths, strict=True)]
        padded = pad(rows, "right", torch.device("cpu"), m.encoder.pad)
        return Batch(padded.ids, padded.ids.masked_fill(padded.mask == 0, NO_LOSS))

    def position(self) -> dict[str, int]:
        """Batches handed out so far."""
        return {"batch": self._batch}

    def seek(self, position: Mapping[str, int]) -> None:
        """Go to a position that `position` returned."""
        self._batch = position["batch"]


def corruption(
    model: Any, material: Material, profile: Profile, revision: str
) -> Iterator[tuple[RunSpec, dict[str, list[Row]]]]:
    """Fine-tune a checkpoint once for each replay weight and seed; its weights come back.

    Yields:
        Each run with its rows of `dynamics_runs` and `biography_eval`.

    Raises:
        IntegrityError: a fine-tuning diverged.
    """
    settings = profile.dynamics
    before = copy_weights(model)
    asked = [p.requires_grad for p in model.parameters()]
    for spec in given_runs(settings, len(material.known), revision):
        model.requires_grad_(True)
        try:
            yield spec, _tune(model, material, profile, spec, before)
        finally:
            with torch.no_grad():
                for name, p in model.named_parameters():
                    p.copy_(before[name])
            for p, wanted in zip(model.parameters(), asked, strict=True):
                p.requires_grad_(wanted)
                p.grad = None
            model.eval()


def given_runs(settings: Dynamics, n_known: int, revision: str) -> list[RunSpec]:
    """The fine-tunings of a given checkpoint."""
    return [
        RunSpec(
            f"{GIVEN}.new.w{weight:g}",
            "fine_tuned",
            seed,
            n_known,
            settings.fine_tune_steps,
            parent=revision,
            material="new",
            n_taught=settings.new_people,
            replay_weight=weight,
        )
        for weight in settings.replay_weights
        for seed in range(settings.seeds)
    ]


def _tune(
    model: Any, material: Material, profile: Profile, spec: RunSpec, before: Mapping[str, Tensor]
) -> dict[str, list[Row]]:
    settings, longest = profile.dynamics, material.taught.ids.shape[1]
    source = MaterialSource(material, settings.batch_rows, spec.replay_weight or 0.0, 1 + spec.seed)
    config = TrainingConfig(
        steps=spec.steps,
        batch_rows=settings.batch_rows,
        context=longest,
        peak_lr=settings.fine_tune_lr,
        schedule="constant",
        precision=settings.precision,
        seed=spec.seed,
    )
    trainer = Trainer(model, source, config, next(model.parameters()).device)
    due = evaluation_steps(spec.steps, EVALUATIONS)
    keys = {"dynamics_run": spec.name}
    rows = _rows(trainer, material, profile, keys, "none")
    while trainer.step < spec.steps:
        trainer.advance()
        if trainer.step in due:
            rows += _rows(trainer, material, profile, keys, "none")
    for kind in RESTORABLE:
        with restored(model, before, kind):
            rows += _rows(trainer, material, profile, keys, kind)
    return {"biography_eval": rows, "dynamics_runs": [_run_row(trainer, material, settings, spec)]}


def _rows(
    trainer: Trainer, material: Material, profile: Profile, keys: Row, kind: str
) -> list[Row]:
    keys = {**keys, "step": trainer.step}
    values = _fact_values(trainer.model, material.known, profile.execution.batch_tokens)
    old = {n: float(np.mean(v)) for n, v in values.items()}
    rows = profile.dynamics.batch_rows
    taught = {"taught": measure(trainer.model, material.taught, rows, trainer.device)}
    n = len(material.known)
    row = {**keys, "population": "old", "restored": kind, "n_people": n, **old}
    return [row, *eval_rows(taught, keys, kind)]


def _run_row(trainer: Trainer, material: Material, settings: Dynamics, spec: RunSpec) -> Row:
    config: Any = trainer.model.config
    people = material.population
    return {
        **spec.columns(),
        "arch": str(config.model_type),
        "layers": int(config.num_hidden_layers),
        "width": int(config.hidden_size),
        "heads": int(config.num_attention_heads),
        "precision": trainer.config.precision,
        "n_parameters": sum(p.numel() for p in trainer.model.parameters()),
        "n_held_out": 0,
        "n_attributes": len(people.attributes),
        "baseline_nats": baseline(people.value[people.new]),
        "uniform_nats": people.baseline_nats(),
        "batch_rows": settings.batch_rows,
        "context": trainer.config.context,
        "peak_lr": settings.fine_tune_lr,
        "tokens": trainer.tokens,
    }
