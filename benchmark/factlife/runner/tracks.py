"""What every track measures at one checkpoint, and the tables that this fills."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import torch

from factlife.circuits import ablate, metrics
from factlife.circuits import measure as circuits
from factlife.config import Profile
from factlife.corpora.fact_probes import FactProbes
from factlife.errors import UsageError
from factlife.recall import measure as recall
from factlife.series.loading import Loaded
from factlife.store import sha256_json
from factlife.tracing import supported

RECALL_TABLES = ("candidates", "recall")
CIRCUIT_TABLES = ("circuits", "circuits_sweep", "circuit_edges")
MEASURED_TABLES = (*RECALL_TABLES, *CIRCUIT_TABLES, "ablations")

Rows: TypeAlias = Sequence[Mapping[str, Any]] | pa.Table
Keys: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Prepared:
    """The prompts of each track as tokens; None for a track that the profile leaves out."""

    recall: recall.Prepared | None
    circuits: Any


class Tracks:
    """Measures the tracks of a profile; prompts are encoded once for each tokenizer.

    Attributes:
        seconds: wall-clock time spent in each track so far.
    """

    def __init__(self, probes: FactProbes, profile: Profile) -> None:
        self._probes, self._profile = probes, profile
        self._made: dict[str, Prepared] = {}
        self.seconds: dict[str, float] = dict.fromkeys(profile.tracks, 0.0)

    def tables(self, *, last: bool) -> dict[str, tuple[str, ...]]:
        """The tables of each track at a checkpoint; `last` is the last one of the run."""
        ablated = self._ablates(last)
        every = {
            "recall": RECALL_TABLES,
            "circuits": (*CIRCUIT_TABLES, "ablations") if ablated else CIRCUIT_TABLES,
        }
        return {track: every[track] for track in self._profile.tracks if track in every}

    def _ablates(self, last: bool) -> bool:
        wanted = self._profile.circuits.ablations
        return wanted == "all" or (wanted == "last" and last)

    def measure(
        self, loaded: Loaded, keys: Keys, tracks: Sequence[str], *, last: bool
    ) -> Iterator[tuple[str, Rows]]:
        """Measure tracks at one checkpoint -> (table, rows), a table at a time.

        Args:
            keys: revision, stage and step, repeated in every row.
        """
        prepared = self._prepared(loaded)
        every: Mapping[str, Callable[[], Iterator[tuple[str, Rows]]]] = {
            "recall": lambda: self._recall(loaded, prepared, keys),
            "circuits": lambda: self._circuits(loaded, prepared, keys, self._ablates(last)),
        }
        for track in tracks:
            started = time.monotonic()
            found = list(every[track]())
            self.seconds[track] += time.monotonic() - started
            yield from found

    def random_init(self, loaded: Loaded, keys: Keys) -> pa.Table:
        """Circuits of a model that was initialised anew: what counts are compared with."""
        prepared = self._prepared(loaded)
        started = time.monotonic()
        found = circuits.measure(
            loaded.model, loaded.tokenizer, prepared.circuits, self._profile, keys
        )
        self.seconds["circuits"] += time.monotonic() - started
        return found.circuits

    def _recall(self, loaded: Loaded, prepared: Prepared, keys: Keys) -> Iterator[tuple[str, Rows]]:
        assert prepared.recall is not None
        rows, candidates = recall.measure(
            loaded.model, loaded.tokenizer, prepared.recall, self._profile, keys
        )
        yield "candidates", candidates
        yield "recall", rows

    def _circuits(
        self, loaded: Loaded, prepared: Prepared, keys: Keys, ablated: bool
    ) -> Iterator[tuple[str, Rows]]:
        model, tokenizer, profile = loaded.model, loaded.tokenizer, self._profile
        found = circuits.measure(model, tokenizer, prepared.circuits, profile, keys)
        yield "circuits", found.circuits
        yield "circuits_sweep", found.sweep
        yield "circuit_edges", found.edges
        if ablated:
            roles = metrics.head_roles(found.circuits, profile.circuits)
            yield (
                "ablations",
                ablate.ablate(model, prepared.circuits, found.circuits, roles, profile, keys),
            )

    def _prepared(self, loaded: Loaded) -> Prepared:
        key = _tokenizer_key(loaded.tokenizer, loaded.max_length)
        if key not in self._made:
            arguments = (loaded.tokenizer, self._probes, self._profile, loaded.max_length)
            tracks = self._profile.tracks
            self._made[key] = Prepared(
                recall.prepare(*arguments) if "recall" in tracks else None,
                circuits.prepare(*arguments) if "circuits" in tracks else None,
            )
        return self._made[key]


def refuse_untraceable(config: Mapping[str, Any], folder: Path, profile: Profile) -> None:
    """Refuse, before anything is measured, a model whose circuits cannot be traced.

    Raises:
        UsageError: names the family and those that can be traced.
    """
    kind = config.get("model_type")
    if "circuits" in profile.tracks and kind is not None and kind not in supported():
        tracks = ",".join(t for t in profile.tracks if t != "circuits") or "recall"
        raise UsageError(
            f"{folder}: circuits of a {kind} model cannot be traced; supported: "
            f"{', '.join(supported())} (docs/adding-an-architecture.md); measure the rest with "
            f"--tracks {tracks}"
        )


def reinitialise(model: Any, seed: int = 0) -> None:
    """Draw a model's weights anew, in place, as Hugging Face initialises this architecture.

    They are drawn on the CPU, whatever the model's device: a GPU's generator gives other numbers.
    """
    device = next(model.parameters()).device
    model.to("cpu")
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(seed)
        for tensor in (*model.parameters(), *model.buffers()):
            tensor._is_hf_initialized = False
        for module in model.modules():
            module._is_hf_initialized = False
        model.initialize_weights()
    model.to(device)


def _tokenizer_key(tokenizer: Any, max_length: int | None) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else str(id(tokenizer))
    return sha256_json([content, max_length, tokenizer.bos_token_id])
