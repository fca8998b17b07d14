"""The contract between rooms: every table's columns, and `result.json`.

Tables are tidy and keyed. Null means "not measured"; a row that was dropped stays,
with its reason. Log-probabilities are natural logarithms (nats), stored as a sum and a
token count. A change of columns raises the table's version, and `docs/tables.md` says
how to migrate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from factlife.errors import IntegrityError

VERSION_KEY = b"factlife.schema_version"
TABLE_KEY = b"factlife.table"


@dataclass(frozen=True)
class Column:
    """One column: its Arrow type, what it holds, its unit, and whether null is allowed."""

    name: str
    type: pa.DataType
    doc: str
    unit: str = ""
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """One table of the run folder.

    Attributes:
        name: folder name under `tables/`.
        version: raised by one at every change of columns.
        key: columns that are unique together.
        partitions: columns that are also folder names (`stage=…/step=…`), outermost first.
        grain: what one row stands for.
    """

    name: str
    version: int
    grain: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    partitions: tuple[str, ...] = ()

    @cached_property
    def arrow(self) -> pa.Schema:
        """The Arrow schema, with column docs, units and the version as metadata."""
        fields = [
            pa.field(
                c.name,
                c.type,
                nullable=c.nullable,
                metadata={b"doc": c.doc.encode(), b"unit": c.unit.encode()},
            )
            for c in self.columns
        ]
        return pa.schema(
            fields,
            metadata={TABLE_KEY: self.name.encode(), VERSION_KEY: str(self.version).encode()},
        )

    def from_rows(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Turn dict rows into a checked Arrow table; absent keys become null.

        Raises:
            IntegrityError: an unknown column, a value of the wrong type, a null where none may be,
                NaN, or a repeated key.
        """
        known = {c.name for c in self.columns}
        for row in rows:
            if extra := set(row) - known:
                raise IntegrityError(
                    f"table {self.name}: unknown column {sorted(extra)[0]!r}; "
                    f"its columns are {', '.join(c.name for c in self.columns)}"
                )
        arrays = [self._array(c, rows) for c in self.columns]
        return self.check(pa.Table.from_arrays(arrays, schema=self.arrow))

    def _array(self, column: Column, rows: Sequence[Mapping[str, Any]]) -> pa.Array:
        values = [r.get(column.name) for r in rows]
        try:
            if pa.types.is_integer(column.type):  # Arrow would cut 1.5 to 1 without a word
                for v in values:
                    if isinstance(v, float) and not v.is_integer():
                        raise pa.ArrowInvalid(f"{v} is no integer")
            return pa.array(values, type=column.type)
        except (pa.ArrowException, OverflowError) as error:
            raise IntegrityError(
                f"table {self.name}: column {column.name} holds {column.type}: {error}"
            ) from error

    def check(self, table: pa.Table) -> pa.Table:
        """Return `table` unchanged if it holds to this contract.

        Raises:
            IntegrityError: wrong columns or types, null in a required column, NaN or infinity
                anywhere, or two rows with one key.
        """
        if not table.schema.equals(self.arrow, check_metadata=False):
            raise IntegrityError(
                f"table {self.name}: columns are {table.schema.names} with types "
                f"{[str(t) for t in table.schema.types]}, expected version {self.version}: "
                f"{self.arrow.names} with {[str(t) for t in self.arrow.types]}"
            )
        for column in self.columns:
            values = table[column.name]
            if not column.nullable and values.null_count:
                raise IntegrityError(
                    f"table {self.name}: {values.null_count} nulls in required column {column.name}"
                )
            if pa.types.is_floating(column.type) and not _all_finite(values):
                raise IntegrityError(
                    f"table {self.name}: NaN or infinity in column {column.name}; "
                    "write null and a reason for what could not be measured"
                )
        groups = table.group_by(list(self.key)).aggregate([([], "count_all")])
        if groups.num_rows != table.num_rows:
            repeated = groups.filter(pc.greater(groups["count_all"], 1)).to_pylist()[0]
            key = ", ".join(f"{k} {repeated[k]!r}" for k in self.key)
            raise IntegrityError(f"table {self.name}: two rows share one key: {key}")
        return table


def _all_finite(values: pa.ChunkedArray) -> bool:
    finite = pc.all(pc.is_finite(values), skip_nulls=True).as_py()
    return finite is not False


_STAGE = Column("stage", pa.string(), "training stage, `main` where the series has only one")
_STEP = Column("step", pa.int64(), "optimiser step of the revision", "steps", nullable=True)
_REVISION = Column("revision", pa.string(), "revision name inside the series")
_REASON = Column("reason", pa.string(), "why the row holds no measurement", nullable=True)
_LOGPROB = Column(
    "logprob_sum_nats",
    pa.float64(),
    "summed log-probability of the answer's tokens, teacher-forced",
    "nats",
    nullable=True,
)
_N_TOKENS = Column("n_tokens", pa.int32(), "tokens of the answer", "tokens", nullable=True)

CHECKPOINTS = Table(
    name="checkpoints",
    version=1,
    grain="one revision of the series",
    key=("revision",),
    partitions=("stage", "step"),
    columns=(
        Column("series", pa.string(), "name of the series"),
        _REVISION,
        Column("position", pa.int32(), "place in the series, from 0"),
        Column("repo", pa.string(), "Hub repo id or folder name that holds the revision"),
        _STAGE,
        _STEP,
        Column("tokens", pa.int64(), "cumulative training tokens", "tokens", nullable=True),
        Column("tokens_source", pa.string(), "name, registry, user or unknown"),
        Column("commit_sha", pa.string(), "Hub commit the revision was pinned to", nullable=True),
        Column("weights_sha256", pa.list_(pa.string()), "sha256 of each weight file, by name"),
        Column(
            "tensor_hash",
            pa.string(),
            "sha256 over the named tensors, whatever the files they came in",
            nullable=True,
        ),
        Column("architecture", pa.string(), "Hugging Face architecture class", nullable=True),
        Column("n_parameters", pa.int64(), "parameters, tied ones once", "count", nullable=True),
        Column("dtype", pa.string(), "dtype the model was measured in", nullable=True),
        Column("attention", pa.string(), "attention implementation measured with", nullable=True),
        Column("flags", pa.list_(pa.string()), "what is unusual about this revision"),
        Column(
            "duplicate_of", pa.string(), "revision with these weights that counts", nullable=True
        ),
        _REASON,
    ),
)

RECALL = Table(
    name="recall",
    version=1,
    grain="checkpoint x fact x template",
    key=("revision", "fact_id", "template_id"),
    partitions=("stage", "step"),
    columns=(
        _REVISION,
        _STAGE,
        _STEP,
        Column("fact_id", pa.string(), "fact of the fact-probes data set"),
        Column("template_id", pa.string(), "template the prompt was made from"),
        Column("template_role", pa.string(), "source or extra"),
        Column("relation", pa.string(), "relation of the fact"),
        Column("group", pa.string(), "LOC or NAME"),
        Column(
            "rank",
            pa.int32(),
            "vocabulary entries scored above the first answer token at the position before it",
            "0 = top",
            nullable=True,
        ),
        _LOGPROB,
        _N_TOKENS,
        Column(
            "whole_answer",
            pa.bool_(),
            "every answer token is the argmax under teacher forcing",
            nullable=True,
        ),
        Column("generation", pa.string(), "greedy continuation of the prompt", nullable=True),
        Column(
            "exact_match",
            pa.bool_(),
            "the normalised generation starts with the answer or an alias",
            nullable=True,
        ),
        _REASON,
    ),
)

CANDIDATES = Table(
    name="candidates",
    version=1,
    grain="checkpoint x relation x subject x candidate",
    key=("revision", "relation", "subject_kind", "subject", "candidate"),
    partitions=("stage", "step"),
    columns=(
        _REVISION,
        _STAGE,
        _STEP,
        Column("relation", pa.string(), "relation whose source template was used"),
        Column("subject", pa.string(), "subject in the template"),
        Column("subject_kind", pa.string(), "known, unseen, or context_free (the prior)"),
        Column("fact_id", pa.string(), "fact of a known subject", nullable=True),
        Column("candidate", pa.string(), "one of the relation's distinct answers"),
        Column("is_answer", pa.bool_(), "the candidate is this subject's answer", nullable=True),
        _LOGPROB,
        _N_TOKENS,
        _REASON,
    ),
)

_FACT = Column("fact_id", pa.string(), "fact of the fact-probes data set")
_RELATION = Column("relation", pa.string(), "relation of the fact")
_LAYER = Column("layer", pa.int32(), "block of the model, from 0")
_KIND = Column("kind", pa.string(), "head, ffn or expert")
_INDEX = Column("index", pa.int32(), "head or expert inside its layer, from 0; 0 for an FFN")

_ACTIVE = (
    Column(
        "heads",
        pa.binary(),
        "attention heads in the circuit, bit layer x H + head, least significant bit first",
        nullable=True,
    ),
    Column("ffns", pa.binary(), "FFNs in the circuit, bit = layer", nullable=True),
    Column(
        "experts",
        pa.binary(),
        "experts in the circuit, bit layer x E + expert; null in a dense model",
        nullable=True,
    ),
)
_POSITION = Column("position", pa.int32(), "token position inside the prompt, from 0", "tokens")

CIRCUITS = Table(
    name="circuits",
    version=1,
    grain="checkpoint x fact x position (source template, answer teacher-forced)",
    key=("revision", "fact_id", "position"),
    partitions=("stage", "step"),
    columns=(
        _REVISION,
        _STAGE,
        _STEP,
        _FACT,
        _RELATION,
        _POSITION,
        Column("token", pa.string(), "text of the token at this position", nullable=True),
        Column("in_subject", pa.bool_(), "the token belongs to the subject", nullable=True),
        Column("in_answer", pa.bool_(), "the token belongs to the answer", nullable=True),
        Column(
            "predicts_answer",
            pa.bool_(),
            "the next token belongs to the answer (T_a)",
            nullable=True,
        ),
        Column("n_layers", pa.int32(), "blocks of the model", nullable=True),
        Column("n_heads", pa.int32(), "attention heads of a layer", nullable=True),
        Column("n_experts", pa.int32(), "experts of a layer, 0 in a dense model", nullable=True),
        *_ACTIVE,
        Column("flags", pa.list_(pa.string()), "what is unusual about this circuit"),
        _REASON,
    ),
)

CIRCUITS_SWEEP = Table(
    name="circuits_sweep",
    version=1,
    grain="checkpoint x fact x position x other threshold tau",
    key=("revision", "tau", "fact_id", "position"),
    partitions=("stage", "step"),
    columns=(
        _REVISION,
        _STAGE,
        _STEP,
        Column("tau", pa.float64(), "threshold on contributions, other than the protocol's"),
        _FACT,
        _POSITION,
        *_ACTIVE,
    ),
)

CIRCUIT_EDGES = Table(
    name="circuit_edges",
    version=1,
    grain="checkpoint x shown fact x edge of the circuit that predicts its answer",
    key=("revision", "fact_id", "layer", "edge", "source_position", "target_position"),
    partitions=("stage", "step"),
    columns=(
        _REVISION,
        _STAGE,
        _STEP,
        _FACT,
        _LAYER,
        Column(
            "edge",
            pa.string(),
            "attention (summed over heads that survive), residual (past attention, or past the "
            "whole block where attention and FFN are parallel), ffn, or mid (past the FFN)",
        ),
        Column("source_position", pa.int32(), "position the edge comes from", "tokens"),
        Column("target_position", pa.int32(), "position the edge goes to", "tokens"),
        Column("contribution", pa.float64(), "c after thresholding and renormalising", "0 to 1"),
        Column("heads", pa.list_(pa.int32()), "heads that carry an attention edge"),
    ),
)

ABLATIONS = Table(
    name="ablations",
    version=1,
    grain="checkpoint x scope of the ablated set x condition x draw x fact",
    key=("revision", "role", "condition", "draw", "fact_id"),
    partitions=("stage", "step"),
    columns=(
        _REVISION,
        _STAGE,
        _STEP,
        Column("role", pa.string(), "general, entity, relation, fact; circuit; or none (intact)"),
        Column(
            "condition",
            pa.string(),
            "intact, whole_role (all its heads mean-ablated), role (as many of them as there are "
            "controls in each layer), control (as many active heads of other roles, matched by "
            "layer), circuit_only (everything but the fact's circuit mean-ablated), "
            "circuit_control (a random circuit of the same size kept), none_kept",
        ),
        Column("draw", pa.int32(), "draw of the control, 0 where nothing is drawn"),
        _FACT,
        _RELATION,
        Column("n_ablated", pa.int32(), "heads that were ablated", "count"),
        Column("n_role", pa.int32(), "heads of the role", "count"),
        _LOGPROB,
        _N_TOKENS,
        Column("whole_answer", pa.bool_(), "every answer token is the argmax", nullable=True),
        _REASON,
    ),
)

ROLES = Table(
    name="roles",
    version=1,
    grain="checkpoint x scope (overall or a relation) x component",
    key=("revision", "scope", "kind", "layer", "index"),
    columns=(
        _REVISION,
        Column("scope", pa.string(), "overall (one disjoint role per component), or a relation"),
        _KIND,
        _LAYER,
        _INDEX,
        Column("role", pa.string(), "general, entity, relation, fact, or inactive"),
        Column("score_general", pa.float64(), "c^g over all facts", "0 to 1", nullable=True),
        Column("score_entity", pa.float64(), "c^e over all facts", "0 to 1", nullable=True),
        Column(
            "score_relation",
            pa.float64(),
            "c^r of the relation; overall: the highest of any relation",
            "0 to 1",
            nullable=True,
        ),
        Column(
            "score_fact",
            pa.float64(),
            "highest c^f of any fact in scope",
            "0 to 1",
            nullable=True,
        ),
        Column("n_facts", pa.int32(), "facts in scope whose c^f is above theta", "count"),
    ),
)

TRANSITIONS = Table(
    name="transitions",
    version=1,
    grain="kind of component x scope x role before x role after",
    key=("kind", "scope", "role_before", "role_after"),
    columns=(
        _KIND,
        Column("scope", pa.string(), "overall, or a relation"),
        Column("role_before", pa.string(), "role at a checkpoint"),
        Column("role_after", pa.string(), "role at the next checkpoint"),
        Column("count", pa.int64(), "component-steps with this change", "count"),
        Column(
            "probability",
            pa.float64(),
            "P(after | before), pooled over components and consecutive checkpoints",
            "0 to 1",
            nullable=True,
        ),
        Column("ci_low", pa.float64(), "lower end of its interval", "0 to 1", nullable=True),
        Column("ci_high", pa.float64(), "upper end of its interval", "0 to 1", nullable=True),
        Column(
            "null_mean",
            pa.float64(),
            "mean under identities permuted within layer and kind",
            "0 to 1",
            nullable=True,
        ),
        Column("null_low", pa.float64(), "2.5 % quantile of that null", "0 to 1", nullable=True),
        Column("null_high", pa.float64(), "97.5 % quantile of that null", "0 to 1", nullable=True),
        Column(
            "per_log_token",
            pa.float64(),
            "changes per component and unit of ln(tokens); null on the diagonal",
            "per ln(tokens)",
            nullable=True,
        ),
        Column(
            "rate",
            pa.float64(),
            "entry of the generator Q with P = expm(Q x difference in ln(tokens))",
            "per ln(tokens)",
            nullable=True,
        ),
        _REASON,
    ),
)

SCORES = Table(
    name="scores",
    version=1,
    grain="metric x scope x revision (no revision: the whole series)",
    key=("metric", "scope", "revision"),
    columns=(
        Column("metric", pa.string(), "name in the registry of standard metrics"),
        Column("scope", pa.string(), "overall, a group, a relation, or a named subset of facts"),
        Column("revision", pa.string(), "revision measured; empty for the whole series"),
        Column("value", pa.float64(), "the metric", nullable=True),
        Column("ci_low", pa.float64(), "lower end of the interval", nullable=True),
        Column("ci_high", pa.float64(), "upper end of the interval", nullable=True),
        Column("n", pa.int64(), "independent units behind the value", "count"),
        Column("unit", pa.string(), "unit of value and interval"),
        Column("direction", pa.string(), "higher, lower, or neither is better"),
        Column("interval_method", pa.string(), "how the interval was made", nullable=True),
        Column("reason", pa.string(), "why the value is null", nullable=True),
    ),
)

_INJECTION_RUN = Column(
    "injection_run", pa.string(), "name of the injection run, such as `late-seed0`"
)
_SINCE_START = Column(
    "step",
    pa.int64(),
    "optimiser updates since the start revision; 0 is before the first",
    "steps",
)
_ARM = Column(
    "arm",
    pa.string(),
    "paraphrase, duplication, once or control; `every-N` in a spacing study, `times-N` in a "
    "frequency study",
)
_HALF = Column("half", pa.string(), "A or B: the disjoint half of its arm that the passage is in")
_PASSAGE = Column("passage_id", pa.string(), "passage of the corpus")

INJECTION_RUNS = Table(
    name="injection_runs",
    version=1,
    grain="one injection run: a start revision trained on with passages in the text",
    key=("injection_run",),
    partitions=("injection_run",),
    columns=(
        _INJECTION_RUN,
        Column(
            "study",
            pa.string(),
            "main, spacing, frequency, batch, lr, or background: a main run without its passages",
        ),
        Column("varied", pa.string(), "setting that a batch or lr study varies", nullable=True),
        Column("varied_value", pa.float64(), "its value in this run", nullable=True),
        Column("series", pa.string(), "name of the series"),
        Column("revision", pa.string(), "revision that training started from"),
        Column("position", pa.string(), "early, mid, late, first (step 0) or named"),
        Column("start_step", pa.int64(), "step of that revision", "steps", nullable=True),
        Column("start_tokens", pa.int64(), "its training tokens", "tokens", nullable=True),
        Column("seed", pa.int64(), "of arms, halves, rows and dropout"),
        Column("balanced", pa.bool_(), "every block was in every arm over this study's seeds"),
        Column("steps", pa.int64(), "optimiser updates in all", "steps"),
        Column("injection_steps", pa.list_(pa.int64()), "steps before which a batch held passages"),
        Column(
            "placebo_steps",
            pa.list_(pa.int64()),
            "steps probed as after an injection, though nothing was injected",
        ),
        Column("window", pa.int64(), "steps probed densely after each of both", "steps"),
        Column("batch_rows", pa.int64(), "rows an update", "rows"),
        Column("context", pa.int64(), "tokens a row", "tokens"),
        Column("peak_lr", pa.float64(), "learning rate after the warm-up"),
        Column("warmup_steps", pa.int64(), "of the learning rate", "steps"),
        Column("schedule", pa.string(), "constant or cosine"),
        Column("optimiser", pa.string(), "fresh or restored"),
        Column("precision", pa.string(), "float32 or bfloat16 (autocast, float32 weights)"),
        Column("corpus", pa.string(), "name or path of the corpus"),
        Column("background", pa.string(), "where the background text came from"),
        Column("plan_sha256", pa.string(), "of the plan's lines"),
        Column("flags", pa.list_(pa.string()), "what is unusual about this run"),
        _REASON,
    ),
)

INJECTION_PASSAGES = Table(
    name="injection_passages",
    version=1,
    grain="injection run x passage, controls included",
    key=("injection_run", "passage_id"),
    partitions=("injection_run",),
    columns=(
        _INJECTION_RUN,
        _PASSAGE,
        Column("kind", pa.string(), "kind of subject"),
        Column("block", pa.string(), "block that rotates over the arms; `control` never does"),
        _ARM,
        _HALF,
        Column("exposures", pa.int64(), "times it is injected", "count"),
        Column(
            "injection_steps", pa.list_(pa.int64()), "steps before which a batch held this passage"
        ),
        Column("spacing_steps", pa.int64(), "steps from one to the next", "steps", nullable=True),
        _REASON,
    ),
)

INJECTIONS = Table(
    name="injections",
    version=1,
    grain="injection run x update x row that held a passage: the plan as it was carried out",
    key=("injection_run", "step", "row"),
    partitions=("injection_run",),
    columns=(
        _INJECTION_RUN,
        Column(
            "step",
            pa.int64(),
            "update, from 0, whose batch held the passage; probes at step + 1 are the first after",
            "steps",
        ),
        Column("row", pa.int64(), "row of the batch"),
        _PASSAGE,
        Column("variant", pa.int64(), "0 the passage itself, k its k-th paraphrase"),
        _ARM,
        _HALF,
        Column("n_tokens", pa.int64(), "of the text with its end-of-text", "tokens"),
        Column("n_seen", pa.int64(), "of them inside the row; fewer: it was cut off", "tokens"),
        _REASON,
    ),
)

PROBES = Table(
    name="probes",
    version=1,
    grain="injection run x step x probe",
    key=("injection_run", "step", "probe_id"),
    partitions=("injection_run",),
    columns=(
        _INJECTION_RUN,
        _SINCE_START,
        Column("probe_id", pa.string(), "probe of the corpus"),
        _PASSAGE,
        Column("depth", pa.string(), "memorization, semantic or compositional"),
        _ARM,
        _HALF,
        _LOGPROB,
        _N_TOKENS,
        Column(
            "rank",
            pa.int32(),
            "vocabulary entries scored above the first target token",
            "0 = top",
            nullable=True,
        ),
        Column(
            "exact_match",
            pa.bool_(),
            "greedy decoding of the prefix gives the target's tokens: each is the argmax",
            nullable=True,
        ),
        _REASON,
    ),
)

INJECTION_RECALL = Table(
    name="injection_recall",
    version=1,
    grain="injection run x step x fact of the fact-probes data set, source template",
    key=("injection_run", "step", "fact_id"),
    partitions=("injection_run",),
    columns=(
        _INJECTION_RUN,
        _SINCE_START,
        Column("fact_id", pa.string(), "fact of the fact-probes data set"),
        Column("relation", pa.string(), "relation of the fact"),
        Column("group", pa.string(), "LOC or NAME"),
        _LOGPROB,
        _N_TOKENS,
        Column(
            "rank",
            pa.int32(),
            "vocabulary entries scored above the first answer token",
            "0 = top",
            nullable=True,
        ),
        Column("whole_answer", pa.bool_(), "every answer token is the argmax", nullable=True),
        _REASON,
    ),
)

TRAINING_LOG = Table(
    name="training_log",
    version=1,
    grain="injection run x step",
    key=("injection_run", "step"),
    partitions=("injection_run",),
    columns=(
        _INJECTION_RUN,
        _SINCE_START,
        Column(
            "loss",
            pa.float64(),
            "mean over the batch of the update that led to this step; null at step 0",
            "nats",
            nullable=True,
        ),
        Column(
            "background_loss",
            pa.float64(),
            "mean over background rows that are never trained on; null where not measured",
            "nats",
            nullable=True,
        ),
        Column("learning_rate", pa.float64(), "of that update", nullable=True),
        Column("tokens", pa.int64(), "token positions since the start revision", "tokens"),
        Column(
            "seconds", pa.float64(), "that update took; no two runs agree here", "s", nullable=True
        ),
    ),
)

_RUN = Column("dynamics_run", pa.string(), "name of the dynamics run: condition and seed")
_POPULATION = Column(
    "population",
    pa.string(),
    "people measured: known (trained on), held_out (never seen), old (known before the "
    "fine-tuning), taught (fine-tuned on)",
)

DYNAMICS_RUNS = Table(
    name="dynamics_runs",
    version=2,  # 2: precision
    grain="one training run on biographies, from scratch or fine-tuned",
    key=("dynamics_run",),
    partitions=("dynamics_run",),
    columns=(
        _RUN,
        Column("condition", pa.string(), "what is varied; runs of one condition differ in seed"),
        Column("kind", pa.string(), "scratch, patched, or fine_tuned"),
        Column("seed", pa.int64(), "of weights and of every draw of text"),
        Column("arch", pa.string(), "architecture: Hugging Face model type"),
        Column("layers", pa.int32(), "transformer blocks", "count"),
        Column("width", pa.int32(), "of the residual stream", "count"),
        Column("heads", pa.int32(), "attention heads a layer", "count"),
        Column(
            "precision", pa.string(), "of training: float32, or bfloat16 autocast"
        ),
        Column("n_parameters", pa.int64(), "parameters, tied ones once", "count"),
        Column("n_people", pa.int64(), "people trained on; of a fine-tuning: old people", "people"),
        Column("n_held_out", pa.int64(), "people measured but never trained on", "people"),
        Column("n_attributes", pa.int32(), "attributes of a person", "count"),
        Column(
            "baseline_nats",
            pa.float64(),
            "loss of knowing the values but not the people: mean over attributes of the "
            "empirical entropy of their values",
            "nats",
        ),
        Column("uniform_nats", pa.float64(), "mean over attributes of ln(values)", "nats"),
        Column(
            "distribution", pa.string(), "uniform, power_law, celebrities, warm_up, or groups"
        ),
        Column("alpha", pa.float64(), "exponent of the power law", nullable=True),
        Column("celebrities", pa.int64(), "people drawn more often", "people", nullable=True),
        Column(
            "celebrity_weight", pa.float64(), "how many times as often", "ratio", nullable=True
        ),
        Column("warm_up_people", pa.int64(), "people of the warm-up", "people", nullable=True),
        Column("warm_up_steps", pa.int64(), "steps of the warm-up", "steps", nullable=True),
        Column("groups", pa.int32(), "groups shown one after another", "count", nullable=True),
        Column("steps", pa.int64(), "optimiser steps", "steps"),
        Column("batch_rows", pa.int32(), "biographies a step", "count"),
        Column("context", pa.int32(), "tokens of a row, padding included", "tokens"),
        Column("peak_lr", pa.float64(), "learning rate after the warm-up"),
        Column("tokens", pa.int64(), "tokens trained on, padding included", "tokens"),
        Column(
            "parent",
            pa.string(),
            "run (or revision) that a fine-tuning began from, or that patterns were taken from",
            nullable=True,
        ),
        Column(
            "reference_step", pa.int64(), "step r of the parent's patterns", "steps", nullable=True
        ),
        Column("patch_from", pa.int64(), "step s that patching began at", "steps", nullable=True),
        Column("material", pa.string(), "people fine-tuned on: new or rare", nullable=True),
        Column("n_taught", pa.int64(), "people fine-tuned on", "people", nullable=True),
        Column("replay_weight", pa.float64(), "weight w of an old person", "ratio", nullable=True),
        Column(
            "replay_share", pa.float64(), "expected share of old people in the text", "share",
            nullable=True,
        ),
    ),
)  # fmt: skip

BIOGRAPHY_EVAL = Table(
    name="biography_eval",
    version=1,
    grain="dynamics run x step x population (x weights restored)",
    key=("dynamics_run", "step", "population", "restored"),
    partitions=("dynamics_run",),
    columns=(
        _RUN,
        Column("step", pa.int64(), "optimiser steps done", "steps"),
        _POPULATION,
        Column(
            "restored",
            pa.string(),
            "weights put back to those before the fine-tuning: none, attention, or mlp",
        ),
        Column("n_people", pa.int32(), "people measured, with templates they are not trained on"),
        Column(
            "loss_nats",
            pa.float64(),
            "summed loss of a value's tokens, mean over people, then attributes",
            "nats",
        ),
        Column(
            "accuracy",
            pa.float64(),
            "share of values whose every token is the argmax under teacher forcing",
            "share",
        ),
        Column(
            "top_probability",
            pa.float64(),
            "mean probability of the most probable next token where a value begins",
            "probability",
        ),
        Column(
            "entropy_nats", pa.float64(), "mean entropy of the next token where a value begins",
            "nats",
        ),
        Column(
            "auroc",
            pa.float64(),
            "of held_out: probability that a known value's top probability is the higher one",
            "AUROC",
            nullable=True,
        ),
    ),
)  # fmt: skip

ATTENTION_SIGNATURES = Table(
    name="attention_signatures",
    version=1,
    grain="dynamics run x step x population x layer",
    key=("dynamics_run", "step", "population", "layer"),
    partitions=("dynamics_run",),
    columns=(
        _RUN,
        Column("step", pa.int64(), "optimiser steps done", "steps"),
        _POPULATION,
        Column("layer", pa.int32(), "transformer block, from 0"),
        Column(
            "grouping",
            pa.float64(),
            "attention from a name's last token to its other tokens, mean over heads and names",
            "share",
        ),
        Column(
            "extraction",
            pa.float64(),
            "attention from where a value begins to the tokens of the name, every mention so far",
            "share",
        ),
        Column(
            "sharpness",
            pa.float64(),
            "entropy of that attention over ln of the tokens it can see; 0 sharp, 1 even",
            "share",
        ),
    ),
)

SUBJECT_ATTENTION = Table(
    name="subject_attention",
    version=1,
    grain="checkpoint x layer",
    key=("revision", "layer"),
    partitions=("stage", "step"),
    columns=(
        _REVISION,
        _STAGE,
        _STEP,
        Column("layer", pa.int32(), "transformer block, from 0; -1 where nothing was measured"),
        Column(
            "mass",
            pa.float64(),
            "attention from where the answer begins to the subject's tokens, mean over heads, "
            "then facts",
            "share",
            nullable=True,
        ),
        Column(
            "sharpness",
            pa.float64(),
            "entropy of that attention over ln of the tokens it can see; 0 sharp, 1 even",
            "share",
            nullable=True,
        ),
        Column("n_facts", pa.int32(), "facts measured, source template", "count"),
        _REASON,
    ),
)

DYNAMICS_SUMMARY = Table(
    name="dynamics_summary",
    version=1,
    grain="dynamics run (or the whole series) x quantity",
    key=("dynamics_run", "quantity"),
    columns=(
        Column("dynamics_run", pa.string(), "name of the dynamics run; `series` for a given one"),
        Column("quantity", pa.string(), "t1, t2, t2_twin, t_held, and the others of the docs"),
        Column("value", pa.float64(), "the quantity", nullable=True),
        Column("unit", pa.string(), "unit of the value"),
        _REASON,
    ),
)

DYNAMICS_CLAIMS = Table(
    name="dynamics_claims",
    version=1,
    grain="claim x scope x number behind it",
    key=("claim", "scope", "number"),
    columns=(
        Column("claim", pa.string(), "C1 to C11"),
        Column("scope", pa.string(), "scratch (models trained here) or series (given checkpoints)"),
        Column("number", pa.string(), "what the value is; empty where nothing was measured"),
        Column("statement", pa.string(), "the claim in one sentence"),
        Column(
            "verdict", pa.string(), "of the claim: supported, not supported, undecided, not tested"
        ),
        Column("holds", pa.string(), "of this number alone: yes, no, or open"),
        Column("wanted", pa.string(), "what the claim asks of the number"),
        Column("value", pa.float64(), "the number", nullable=True),
        Column("ci_low", pa.float64(), "lower end of the interval", nullable=True),
        Column("ci_high", pa.float64(), "upper end of the interval", nullable=True),
        Column("n", pa.int64(), "seeds, or facts of a given series, behind it", "count"),
        Column("unit", pa.string(), "unit of value and interval"),
        Column("interval_method", pa.string(), "how the interval was made", nullable=True),
        _REASON,
    ),
)

INJECTION_AUDIT = Table(
    name="injection_audit",
    version=1,
    grain="start revision x passage of a corpus other than the built-in one, before injection",
    key=("revision", "passage_id"),
    partitions=("revision",),
    columns=(
        Column("revision", pa.string(), "start revision that was asked"),
        _PASSAGE,
        Column("probes", pa.int64(), "of the passage, that could be scored", "probes"),
        Column("exact", pa.int64(), "targets that greedy decoding gives", "probes"),
        Column("targets", pa.int64(), "distinct targets", "targets"),
        Column("foils", pa.int64(), "targets of other passages that each competes with", "targets"),
        Column("first", pa.int64(), "targets that beat every foil", "targets"),
        Column("expected", pa.float64(), "such targets by chance", "targets"),
        Column("p", pa.float64(), "probability of as many by chance (binomial)", "probability"),
        Column("known", pa.bool_(), "whether this revision knows the passage already"),
        Column(
            "use",
            pa.string(),
            "new; or, if known: refused, excluded (from all starts), kept (injected all the same)",
        ),
    ),
)

DYNAMICS_TABLES = (
    DYNAMICS_RUNS, BIOGRAPHY_EVAL, ATTENTION_SIGNATURES, SUBJECT_ATTENTION, DYNAMICS_SUMMARY,
    DYNAMICS_CLAIMS,
)  # fmt: skip

INJECTION_TABLES = (
    INJECTION_RUNS,
    INJECTION_PASSAGES,
    INJECTIONS,
    PROBES,
    INJECTION_RECALL,
    TRAINING_LOG,
)

TABLES: Mapping[str, Table] = {
    t.name: t
    for t in (
        CHECKPOINTS,
        RECALL,
        CANDIDATES,
        CIRCUITS,
        CIRCUITS_SWEEP,
        CIRCUIT_EDGES,
        ABLATIONS,
        ROLES,
        TRANSITIONS,
        *INJECTION_TABLES,
        INJECTION_AUDIT,
        *DYNAMICS_TABLES,
        SCORES,
    )
}


def columns_markdown(tables: Iterable[Table] = tuple(TABLES.values())) -> str:
    """Render the column reference that `docs/tables.md` holds."""
    parts = []
    for t in tables:
        parts.append(f"## {t.name} (version {t.version})\n\nOne row: {t.grain}. ")
        parts.append(f"Key: {', '.join(t.key)}.\n\n| column | type | null | unit | holds |\n")
        parts.append("|---|---|---|---|---|\n")
        parts += [
            f"| {c.name} | {c.type} | {'yes' if c.nullable else 'no'} | {c.unit} | {c.doc} |\n"
            for c in t.columns
        ]
        parts.append("\n")
    return "".join(parts)
