"""The command line: parsing and wiring only.

Exit codes: 0 ok, 2 usage, 3 invalid submission, 4 integrity, 5 partial (the same command goes on).
Tables and progress go to stderr, `--json` and paths to stdout.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

import factlife
from factlife.errors import PARTIAL, FactlifeError, SubmissionError, UsageError

if TYPE_CHECKING:
    from factlife.config import Profile
    from factlife.hub.push import Pushed
    from factlife.injection.claims import Claim
    from factlife.result import Problem
    from factlife.runner.demo import Demo
    from factlife.runner.doctor import Finding
    from factlife.runner.plan import Plan
    from factlife.runner.run import Outcome
    from factlife.series.check import Report

F = TypeVar("F", bound=Callable[..., None])

app = typer.Typer(
    name="factlife",
    help="Measure the life of a fact inside a language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
datasets_app = typer.Typer(no_args_is_help=True, help="Build, validate and publish the data sets.")
series_app = typer.Typer(no_args_is_help=True, help="Look at a checkpoint series, or train one.")
leaderboard_app = typer.Typer(
    no_args_is_help=True, help="Build, check and publish the leaderboard."
)
study_app = typer.Typer(no_args_is_help=True, help="Studies: never needed for a row of the board.")
app.add_typer(series_app, name="series")
app.add_typer(datasets_app, name="datasets")
app.add_typer(leaderboard_app, name="leaderboard")
app.add_typer(study_app, name="study")

console = Console(stderr=True)

DEBUG = "FACTLIFE_DEBUG"
STOPPED = "stopped; finished parts are kept: run the same command to go on"


def guarded(command: F) -> F:
    """Turn errors into one line and their exit code; `--debug` shows the traceback."""

    @functools.wraps(command)
    def inner(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except FactlifeError as error:
            if os.environ.get(DEBUG):
                raise
            fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            fail(STOPPED, PARTIAL)
        except Exception:
            if not stop.asked or os.environ.get(DEBUG):
                raise
            fail(STOPPED, PARTIAL)

    return inner  # type: ignore[return-value]


def fail(message: str, exit_code: int) -> None:
    """Print one line on stderr and leave. A message of several lines becomes one."""
    print("factlife: error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    raise typer.Exit(exit_code)


def models(module: str) -> Any:
    """Import a module that needs torch and transformers, or say how to install them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        imported = importlib.import_module(module)
        from transformers.utils import logging as transformers_logging
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("factlife"):
            raise
        raise UsageError(
            f"this command loads models and needs {error.name}: "
            "python -m pip install 'factlife[models]'"
        ) from error
    transformers_logging.disable_progress_bar()
    stop.listen()
    return imported


def find_series(source: str, offline: bool) -> Any:
    """Find a series in any form, quietly; nothing is asked of the network with `offline`."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from factlife.series.discover import find_series as find

    return find(source)


class Stop:
    """Whether Ctrl-C, or a scheduler's SIGTERM, has asked the command to end.

    The exception alone does not do: raised inside compiled code it may come out as another one,
    or not at all. So the wish is noted too, and heard at the next step of progress.
    """

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        """Take over both signals, where this is the main thread."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._note)
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, _signal: int, _frame: Any) -> None:
        self.asked = True
        raise KeyboardInterrupt

    def heed(self) -> None:
        """Raise KeyboardInterrupt if the command was asked to end."""
        if self.asked:
            raise KeyboardInterrupt


stop = Stop()


def _version(value: bool) -> None:
    if value:
        print(factlife.__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Measure the life of a fact inside a language model."""
    del version  # its callback has already spoken
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read when it is imported
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if debug:
        os.environ[DEBUG] = "1"


# ---- shared arguments ------------------------------------------------------------------------

SeriesArgument = Annotated[
    str,
    typer.Argument(
        metavar="SERIES",
        help="Hub repo ORG/NAME, folder of checkpoints, or a series .toml file.",
    ),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")]
ProfileOption = Annotated[str, typer.Option(help="Shipped profile, or a path ending in .toml.")]
TracksOption = Annotated[
    str | None, typer.Option(help="Tracks to run, with commas; default: those of the profile.")
]
OutOption = Annotated[
    Path | None, typer.Option(help="Run folder; default: runs/SERIES/PROFILE-HASH.")
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, …; default: the first accelerator.")
]
BatchOption = Annotated[
    int | None, typer.Option(min=1, help="Bound on padded tokens a forward pass.")
]
ExcludeOption = Annotated[
    list[str] | None, typer.Option(help="Revision to leave out; may be given again.")
]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
]
PickleOption = Annotated[
    bool, typer.Option("--allow-pickle-weights", help="Read pickled weights, which can run code.")
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Use only what is on this machine.")]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Exit 4 where a revision cannot be trusted.")
]
KeepOption = Annotated[
    bool, typer.Option("--keep-cache", help="Keep downloaded weights after their use.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show the files and their sizes; ask nothing of the Hub.")
]
ShardOption = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Measure share I of N, beside other processes; no scores."),
]
ExecutorOption = Annotated[
    str, typer.Option(help="Where to measure: here, slurm, or local (processes on this machine).")
]
PartitionOption = Annotated[str | None, typer.Option(help="Slurm partition.")]
GpusOption = Annotated[int, typer.Option(min=0, help="GPUs a task.")]
TimeOption = Annotated[
    str, typer.Option("--time", help="Limit of a task: minutes, HH:MM:SS, D-HH:MM:SS.")
]
ArrayOption = Annotated[
    int | None, typer.Option(min=1, help="Tasks; default: one a checkpoint and track.")
]
ParallelOption = Annotated[int, typer.Option(min=1, help="Tasks at once, at most.")]
RetriesOption = Annotated[int, typer.Option(min=0, help="How often a failed task is sent again.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
RootOption = Annotated[
    Path, typer.Option(envvar="FACTLIFE_DATASETS", help="Folder of the data sets.")
]


BackgroundOption = Annotated[
    str | None,
    typer.Option(help="Text that injection trains on: a file, or REPO:CONFIG:FIELD on the Hub."),
]
CorpusOption = Annotated[
    str | None, typer.Option(help="Corpus to inject: a folder, or a file of the published schema.")
]
KnownOption = Annotated[
    str | None,
    typer.Option(
        help="What becomes of passages of another corpus that a start knows already: refuse the "
        "corpus, exclude them, or keep them."
    ),
]
StartOption = Annotated[
    list[str] | None,
    typer.Option(help="Start of injection: early, mid, late, first or a revision; repeatable."),
]


def _injecting(
    profile: Profile,
    background: str | None,
    corpus: str | None,
    known: str | None,
    start: list[str] | None,
) -> Profile:
    if known is not None:
        from factlife.config import check_choice

        check_choice(known, ("refuse", "exclude", "keep"), "--known")
    given: dict[str, Any] = {"background": background, "corpus": corpus, "known": known}
    given["starts"] = tuple(start) if start else None
    changes = {k: v for k, v in given.items() if v is not None}
    return replace(profile, injection=replace(profile.injection, **changes))


def _profile(
    name: str, tracks: str | None, device: str | None, batch_tokens: int | None
) -> Profile:
    from factlife.config import TRACKS, check_choice, load_profile

    profile = load_profile(name)
    if tracks is not None:
        wanted = tuple(dict.fromkeys(t.strip() for t in tracks.split(",") if t.strip()))
        for track in wanted:
            check_choice(track, TRACKS, "--tracks")
        if not wanted:
            raise UsageError(f"--tracks is empty; name at least one of {', '.join(TRACKS)}")
        profile = replace(profile, tracks=wanted)
    execution = profile.execution
    if device is not None:
        execution = replace(execution, device=device)
    if batch_tokens is not None:
        execution = replace(execution, batch_tokens=batch_tokens)
    return replace(profile, execution=execution)


def _command() -> str:
    """The words that started this command; those that say which shard it is are left out."""
    words = iter(sys.argv[1:])
    kept = []
    for word in words:
        if word == "--shard":
            next(words, None)
        elif not word.startswith("--shard="):
            kept.append(word)
    return shlex.join(["factlife", *kept])


# ---- commands --------------------------------------------------------------------------------


@app.command("demo")
@guarded
def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("runs/demo"),
    arch: Annotated[
        str, typer.Option(help="Architecture to train: olmo2, llama, gpt_neox or gpt2.")
    ] = "olmo2",
    seed: Annotated[int, typer.Option(min=0, help="Seed of text, split and weights.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train the reference series on a CPU, run every track, write report and board."""
    demo = models("factlife.runner.demo").demo
    with Drawn() as progress:
        made = demo(out, arch=arch, seed=seed, command=_command(), progress=progress)
    _show_demo(made)
    if as_json:
        _print_json(
            {
                "stages": [asdict(s) for s in made.stages],
                "report": str(made.report),
                "leaderboard": str(made.board),
                "metrics": made.result["metrics"],
            }
        )
    else:
        print(made.report)
        print(made.board)


@app.command("run")
@guarded
def run_command(
    series: SeriesArgument,
    profile: ProfileOption = "standard",
    tracks: TracksOption = None,
    out: OutOption = None,
    device: DeviceOption = None,
    batch_tokens: BatchOption = None,
    exclude: ExcludeOption = None,
    trust_remote_code: TrustOption = False,
    allow_pickle_weights: PickleOption = False,
    strict: StrictOption = False,
    keep_cache: KeepOption = False,
    offline: OfflineOption = False,
    background: BackgroundOption = None,
    corpus: CorpusOption = None,
    known: KnownOption = None,
    start: StartOption = None,
    shard: ShardOption = None,
    executor: ExecutorOption = "here",
    partition: PartitionOption = None,
    gpus: GpusOption = 0,
    time_limit: TimeOption = "60",
    array_size: ArrayOption = None,
    parallel: ParallelOption = 256,
    retries: RetriesOption = 2,
    as_json: JsonOption = False,
) -> None:
    """Measure a checkpoint series; the same command goes on after a stop."""
    runner = models("factlife.runner.run")
    from factlife.config import check_choice
    from factlife.runner import slurm
    from factlife.runner.score import score_and_report
    from factlife.runner.shards import Shard, own_downloads

    resolved = _profile(profile, tracks, device, batch_tokens)
    resolved = _injecting(resolved, background, corpus, known, start)
    check_choice(executor, slurm.EXECUTORS, "--executor")
    if shard is not None and executor != "here":
        raise UsageError(f"--shard is what --executor {executor} sets itself: give one of them")
    wanted = None if shard is None else Shard.parse(shard)
    if wanted is not None and not keep_cache and not offline:
        own_downloads(series, wanted)
    opened = find_series(series, offline)
    left_out = tuple(exclude or ())
    settings = runner.Options(
        trust_remote_code, allow_pickle_weights, left_out, _command(), strict, keep_cache, wanted
    )
    root = out or runner.default_out(opened, resolved)
    with Drawn() as progress:
        if executor == "here":
            outcome = runner.run(opened, resolved, root, settings, progress)
        else:
            cluster = slurm.Cluster(
                executor, partition, gpus, slurm.minutes(time_limit), array_size, parallel, retries
            )
            outcome = slurm.run_on_cluster(opened, resolved, root, settings, cluster, progress)
        if outcome.follower:
            return
        if wanted is not None:
            _show_shard(outcome, as_json)
            return
        progress.start("scores and report", 1, "steps")
        result = score_and_report(root)
        progress.advance(1)
        progress.finish()
    console.print(
        f"{len(outcome.measured)} checkpoints measured, {len(outcome.reused)} kept from before"
    )
    _show_metrics(result)
    if as_json:
        _print_json({"run": str(root), "report": str(root / "report.html"), "result": result})
    else:
        print(root)


@app.command("plan")
@guarded
def plan_command(
    series: SeriesArgument,
    profile: ProfileOption = "standard",
    tracks: TracksOption = None,
    out: OutOption = None,
    device: DeviceOption = None,
    exclude: ExcludeOption = None,
    trust_remote_code: TrustOption = False,
    allow_pickle_weights: PickleOption = False,
    offline: OfflineOption = False,
    background: BackgroundOption = None,
    corpus: CorpusOption = None,
    known: KnownOption = None,
    start: StartOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run would measure, download and take; reads no weights."""
    planner = models("factlife.runner.plan")
    from factlife.runner.run import Options, default_out

    resolved = _injecting(_profile(profile, tracks, device, None), background, corpus, known, start)
    opened = find_series(series, offline)
    settings = Options(trust_remote_code, allow_pickle_weights, tuple(exclude or ()))
    made = planner.plan(opened, resolved, out or default_out(opened, resolved), settings)
    if as_json:
        _print_json(asdict(made))
    else:
        _show_plan(made)


def _study_of(what: str, doc: str) -> None:
    """Add `factlife study WHAT`: one thing of the injection track varied."""

    @study_app.command(what, help=doc)
    @guarded
    def study_command(
        series: SeriesArgument,
        profile: ProfileOption = "standard",
        start: StartOption = None,
        out: OutOption = None,
        device: DeviceOption = None,
        batch_tokens: BatchOption = None,
        background: BackgroundOption = None,
        corpus: CorpusOption = None,
        known: KnownOption = None,
        trust_remote_code: TrustOption = False,
        allow_pickle_weights: PickleOption = False,
        offline: OfflineOption = False,
        as_json: JsonOption = False,
    ) -> None:
        runner, injection = models("factlife.runner.run"), models("factlife.runner.injection")
        base = _injecting(
            _profile(profile, None, device, batch_tokens), background, corpus, known, None
        )
        resolved = injection.study_of(base, what, start or ())
        opened = injection.only_starts(find_series(series, offline), resolved)
        settings = runner.Options(trust_remote_code, allow_pickle_weights, (), _command())
        root = out or runner.default_out(opened, resolved)
        with Drawn() as progress:
            outcome = runner.run(opened, resolved, root, settings, progress)
        if not outcome.follower:
            _finish_study(root, outcome.injected, as_json)


def _finish_study(root: Path, done: Any, as_json: bool) -> None:
    from factlife.runner.score import score_and_report

    result = score_and_report(root)
    console.print(f"{len(done.measured)} injection runs, {len(done.reused)} kept from before")
    if as_json:
        _print_json({"run": str(root), "report": str(root / "report.html"), "result": result})
    else:
        print(root)


for _what, _doc in (
    ("spacing", "Inject the same number of times at several spacings."),
    ("frequency", "Inject some passages more often than others, over orders of magnitude."),
    ("batch", "Vary the batch at a fixed injected share and fixed tokens."),
    ("lr", "Vary the learning rate."),
):
    _study_of(_what, _doc)


@app.command("audit")
@guarded
def audit_command(
    corpus: Annotated[
        str, typer.Argument(help="Corpus folder, or a file of the published schema.")
    ],
    series: SeriesArgument,
    start: Annotated[str, typer.Option(help="early, mid, late, first or a revision.")] = "late",
    foils: Annotated[int, typer.Option(min=1, help="Other targets a target competes with.")] = 9,
    profile: ProfileOption = "standard",
    device: DeviceOption = None,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check that a model does not know a corpus yet, before it is injected; exit 4 if it does."""
    injection, loading = models("factlife.runner.injection"), models("factlife.series.loading")
    from factlife.errors import IntegrityError

    resolved = _profile(profile, None, device, None)
    opened = find_series(series, offline)
    name, found = injection.audit_start(
        opened, start, corpus, resolved, loading.pick_device(resolved.execution.device),
        foils=foils,
    )  # fmt: skip
    known = [a for a in found if a.known]
    if as_json:
        _print_json({"revision": name, "passages": [asdict(a) for a in found]})
    else:
        for a in known:
            print(
                f"{a.passage_id}: {a.exact} of {a.probes} answered, {a.first} of {a.targets} "
                f"targets first among {foils + 1} (chance {a.expected:.1f}, p = {a.p:.2g})"
            )
    if known:
        raise IntegrityError(
            f"{corpus}: {name} knows {len(known)} of {len(found)} passages, first "
            f"{known[0].passage_id}: leave them out, or start from an earlier revision"
        )
    print(f"{corpus}: {name} knows none of {len(found)} passages", file=sys.stderr)


@app.command("score")
@guarded
def score_command(run: RunArgument, as_json: JsonOption = False) -> None:
    """Compute scores and result.json anew from a run's tables; needs no model."""
    from factlife.runner.score import score_run

    result = score_run(run)
    _show_metrics(result)
    if as_json:
        _print_json(result)
    else:
        print(run / "result.json")


@app.command("report")
@guarded
def report_command(run: RunArgument) -> None:
    """Write report.html anew from a run's tables; needs no model."""
    from factlife.report import write_report
    from factlife.store import RunStore

    print(write_report(RunStore.existing(run)))


@app.command("compare")
@guarded
def compare_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    as_json: JsonOption = False,
) -> None:
    """Test the claims about acquisition and forgetting across injection runs; needs no model."""
    from factlife.injection.compare import compare, read_runs

    found = compare(read_runs(runs))
    if as_json:
        _print_json([asdict(c) for c in found])
    else:
        _show_claims(found)


@app.command("doctor")
@guarded
def doctor_command(
    out: Annotated[Path, typer.Option(help="Folder that runs are written under.")] = Path("runs"),
    root: RootOption = Path("datasets"),
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine can do, and what to do where it cannot; exit 2 on an error."""
    from factlife.runner import doctor

    findings = doctor.examine(out, root, offline=offline)
    if as_json:
        _print_json([asdict(f) for f in findings])
    else:
        _show_findings(findings)
    if errors := doctor.failed(findings):
        raise UsageError(
            f"{len(errors)} of {len(findings)} findings are errors, first {errors[0].name}: "
            f"{errors[0].found}; {errors[0].todo}"
        )


@app.command("validate")
@guarded
def validate_command(
    path: Annotated[
        Path,
        typer.Argument(help="A result.json, a run, a data set's folder, or a folder of results."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Check a result, a run, a data set or a whole results folder against its format."""
    from factlife.runner.validate import examine

    found = examine(path)
    if as_json and found.protocol:
        _print_json({"valid": True, "path": str(path), "protocol": found.protocol})
    else:
        _show_problems(path, found.kind, found.checked, found.problems, as_json)


@app.command("submit")
@guarded
def submit_command(
    run: RunArgument,
    to: Annotated[str, typer.Option(help="Results repo on the Hub, ORG/factlife-results.")],
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check a run and hand in its result: a pull request of one commit, never a second one."""
    from factlife.hub.submit import submit

    done = submit(run, to, dry_run=dry_run)
    for note in done.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        _print_json(asdict(done))
        return
    words = {
        "dry run": "would hand in",
        "there": "is there already",
        "waiting": "waits in an open pull request already",
        "opened": "handed in",
        "updated": "brought the open pull request up to date",
    }
    for name, size in done.files.items():
        print(f"{size:>12,} bytes  {name}")
    print(f"{to}: {words[done.status]}{': ' if done.url else ''}{done.url}")


@series_app.command("list")
@guarded
def series_list(
    series: SeriesArgument, offline: OfflineOption = False, as_json: JsonOption = False
) -> None:
    """List the revisions of a series in order, with tokens and commits; reads names only."""
    opened = find_series(series, offline)
    from factlife.series.check import Report, describe

    rows = tuple(describe(r) for r in opened.revisions)
    report = Report(opened.name, opened.source, False, opened.warnings, rows)
    if as_json:
        _print_json(asdict(report))
    else:
        _show_series(report, checked=False)


@series_app.command("check")
@guarded
def series_check(
    series: SeriesArgument,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="Download every checkpoint in turn and read it.")
    ] = False,
    strict: StrictOption = False,
    allow_pickle_weights: PickleOption = False,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check the weights of every revision; from a Hub repo's listings nothing is downloaded."""
    opened = find_series(series, offline)
    from factlife.errors import IntegrityError
    from factlife.series.check import check_series

    with Drawn() as progress:
        progress.start("checking", len(opened.revisions), "revisions")
        report = check_series(
            opened, tensors=tensors, allow_pickle=allow_pickle_weights, on_done=progress.advance
        )
        progress.finish()
    if as_json:
        _print_json({**asdict(report), "problems": report.problems})
    else:
        _show_series(report, checked=True)
    if strict and report.problems:
        raise IntegrityError(
            f"{report.series}: {len(report.problems)} problems, first {report.problems[0]}"
        )


@series_app.command("train")
@guarded
def series_train(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the checkpoints.")],
    arch: Annotated[str, typer.Option(help="olmo2, llama, gpt_neox or gpt2.")] = "olmo2",
    depth: Annotated[int, typer.Option(min=1, help="Transformer blocks.")] = 4,
    width: Annotated[
        int, typer.Option(min=32, help="Width of the residual stream, a multiple of 32.")
    ] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Seed of text, split and weights.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps; default: 1600.")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Train a small series on the reference text, for the profile `reference`; resumable."""
    training, loading = models("factlife.training"), models("factlife.series.loading")
    from factlife.runner.demo import training_progress

    with Drawn() as progress:
        training.train_sized_series(
            out, arch=arch, depth=depth, width=width, seed=seed, steps=steps,
            device=str(loading.pick_device(device or "auto")),
            progress=training_progress(progress),
        )  # fmt: skip
    print(out)


@datasets_app.command("build")
@guarded
def datasets_build(
    names: Annotated[list[str] | None, typer.Argument(help="Data sets; default: all.")] = None,
    root: RootOption = Path("datasets"),
    private: Annotated[
        bool, typer.Option("--private", help="Write a private split of fictional-knowledge.")
    ] = False,
    seed_file: Annotated[
        Path | None, typer.Option(help="With --private: the secret seed; made if it is not there.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --private: folder outside any repository.")
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="With --private: passages.")] = 160,
) -> None:
    """Write the data sets, byte for byte the same every time."""
    if private:
        _build_private(names, seed_file, out, size)
        return
    if seed_file is not None or out is not None:
        raise UsageError("--seed-file and --out belong to --private; the public folder is --root")
    from factlife.corpora.build import build

    for path in build(root, names or None):
        print(path)


def _build_private(
    names: list[str] | None, seed_file: Path | None, out: Path | None, size: int
) -> None:
    from factlife.corpora.fictional import private

    if names != ["fictional-knowledge"]:
        raise UsageError("only fictional-knowledge has a private split: name it, and nothing else")
    if seed_file is None or out is None:
        raise UsageError("--private needs --seed-file (the secret) and --out (outside any repo)")
    if not seed_file.exists():
        private.new_seed_file(seed_file)
        print(f"new secret seed: {seed_file} (keep it to yourself)", file=sys.stderr)
    private.build_private(out, seed_file, size)
    print(out / "commitment.json")


@datasets_app.command("reveal")
@guarded
def datasets_reveal(
    seed_file: Annotated[Path, typer.Option(help="The seed, no secret any more.")],
    commitment: Annotated[Path, typer.Option(help="commitment.json, published beforehand.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the split as it was used.")] = None,
) -> None:
    """Prove that a private split is the one that was committed to."""
    from factlife.corpora.fictional.private import reveal

    reveal(seed_file, commitment, data)
    print(f"{commitment}: holds")


@datasets_app.command("generate")
@guarded
def datasets_generate(
    out: Annotated[Path, typer.Option(help="Folder for passages.parquet and probes.parquet.")],
    seed: Annotated[str, typer.Option(help="Any text; the same seed gives the same rows.")],
    size: Annotated[int, typer.Option(min=1, help="Number of passages.")] = 160,
) -> None:
    """Write fictional-knowledge passages of any number, streaming."""
    from factlife.corpora.fictional.product import write_split

    print(f"{write_split(out, seed, size)} passages in {out}")


@datasets_app.command("background")
@guarded
def datasets_background(
    out: Annotated[Path, typer.Argument(help="Parquet file to write.")],
    words: Annotated[int, typer.Option(min=1, help="At least so many words.")] = 2_000_000,
) -> None:
    """Write neutral text of the register of fictional-knowledge."""
    from factlife.corpora.fictional.background import write_background

    print(f"{write_background(out, words):,} words in {out}")


@datasets_app.command("lint")
@guarded
def datasets_lint(
    path: Annotated[
        Path, typer.Argument(help="File in the schema of kaist-ai/fictional-knowledge.")
    ],
) -> None:
    """Print the defects of a corpus in the published schema."""
    from factlife.corpora.fictional.source import lint_report

    print(lint_report(path))


@datasets_app.command("validate")
@guarded
def datasets_validate(
    names: Annotated[list[str] | None, typer.Argument(help="Data sets; default: all.")] = None,
    root: RootOption = Path("datasets"),
) -> None:
    """Run the expectation suites and the cross-table rules."""
    from factlife.corpora.build import validate

    validate(root, names or None)
    print(f"{root}: valid")


@study_app.command("dynamics")
@guarded
def study_dynamics(
    size: Annotated[
        str, typer.Option(help="demo, cpu, gpu, published, or a profile's path ending in .toml.")
    ] = "cpu",
    arch: Annotated[
        str | None,
        typer.Option(help="olmo2, llama, gpt_neox, gpt2, or a model folder whose shape is taken."),
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Scale to this width.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Scale to so many layers.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each condition.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be trained, in FLOPs; train nothing.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; default: runs/studies/PROFILE-ARCH-HASH.")
    ] = None,
    device: DeviceOption = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Share the runs with N - 1 other processes of this command; no scores. "
            "The same command without --shard then ends the study.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train models on biographies from scratch and judge claims C1 to C11; resumable."""
    runner = models("factlife.runner.dynamics")
    profile = runner.study_profile(size, runner.Shape(arch, width, depth, seeds))
    if device is not None:
        profile = replace(profile, execution=replace(profile.execution, device=device))
    root = out or runner.default_study_out(profile)
    if plan:
        _show_study_plan(runner.plan_study(profile, root), as_json)
        return
    if shard is not None:
        models("factlife.runner.shards").Shard.parse(shard)
    with Drawn() as progress:
        done = runner.study(profile, root, _command(), progress, share=shard is not None)
    if shard is not None:
        _show_study_share(root, done, as_json)
        return
    from factlife.runner.score import score_and_report

    result = score_and_report(root)
    console.print(f"{len(done.trained)} runs trained, {len(done.reused)} kept from before")
    _show_dynamics_claims(root)
    if as_json:
        _print_json({"run": str(root), "report": str(root / "report.html"), "result": result})
    else:
        print(root)


@datasets_app.command("push")
@guarded
def datasets_push(
    to: Annotated[str, typer.Option(help="Account or organisation on the Hub.")],
    names: Annotated[list[str] | None, typer.Argument(help="Data sets; default: all.")] = None,
    root: RootOption = Path("datasets"),
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Publish the data sets, each in one commit, once its suite and its card have passed."""
    from factlife.hub.push import push_data_sets

    _show_pushed(push_data_sets(root, to, names or None, dry_run=dry_run), as_json)


@leaderboard_app.command("push")
@guarded
def leaderboard_push(
    to: Annotated[str, typer.Option(help="Static Space on the Hub, ORG/SPACE.")],
    folder: Annotated[Path, typer.Argument(help="What `leaderboard build` wrote.")] = Path(
        "leaderboard"
    ),
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Publish the leaderboard as a static Space, in one commit."""
    from factlife.hub.push import push_space

    _show_pushed([push_space(folder, to, dry_run=dry_run)], as_json)


@leaderboard_app.command("check")
@guarded
def leaderboard_check(
    folder: Annotated[Path, typer.Argument(help="A checkout of the results repo.")],
    base: Annotated[
        Path | None, typer.Option(help="A checkout of what the change is to be merged into.")
    ] = None,
    author: Annotated[
        str | None, typer.Option(help="Account that asks for the change; may replace its own rows.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a results repo, or a change of it, as its CI does."""
    from factlife.hub.check import check_results

    found = check_results(folder, base, author)
    _show_problems(folder, "results repo", len(found.results), found.problems, as_json)


@leaderboard_app.command("build")
@guarded
def leaderboard_build(
    results: Annotated[
        list[Path], typer.Argument(help="result.json files, or folders that hold some.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the page and its files.")] = Path(
        "leaderboard"
    ),
) -> None:
    """Build the static leaderboard from result files."""
    from factlife.hub import build_board

    print(build_board(results, out))


@leaderboard_app.command("serve")
@guarded
def leaderboard_serve(
    folder: Annotated[Path, typer.Argument(help="Folder of a built leaderboard.")] = Path(
        "leaderboard"
    ),
    port: Annotated[int, typer.Option(help="Port on this machine; 0: any free one.")] = 8000,
) -> None:
    """Show a built leaderboard on this machine, offline, until Ctrl-C."""
    from factlife.hub import serve

    with serve(folder, port) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}/ (Ctrl-C ends it)", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


# ---- output ----------------------------------------------------------------------------------


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _show_problems(
    path: Path, kind: str, checked: int, problems: Sequence[Problem], as_json: bool
) -> None:
    """What a check found: one line a problem on stderr, and exit 3; or that all is well."""
    if as_json:
        listed = [asdict(p) for p in problems]
        _print_json({"valid": not problems, "path": str(path), "kind": kind, "problems": listed})
    for problem in problems:
        print(" ".join(str(problem).split()), file=sys.stderr)
    if problems:
        many = "problem" if len(problems) == 1 else "problems"
        raise SubmissionError(f"{path}: {len(problems)} {many} in {checked} results; mend them")
    if not as_json:
        what = {"result": "", "run": "", "data set": f" ({checked} checks)"}
        print(f"{path}: valid{what.get(kind, f' ({checked} results)')}")


def _show_pushed(pushed: Sequence[Pushed], as_json: bool) -> None:
    if as_json:
        _print_json([asdict(p) for p in pushed])
        return
    for one in pushed:
        for name, size in one.files.items():
            print(f"{size:>12,} bytes  {name}{'' if name in one.changed else '  (unchanged)'}")
        for name in one.removed:
            print(f"{'removed':>18}  {name}")
        words = {"dry run": "would be pushed", "there": "is there already", "pushed": "pushed: "}
        print(f"{one.repo}: {words[one.status]}{one.url if one.status == 'pushed' else ''}")


class Drawn:
    """Progress on stderr: a bar with time left on a terminal, a line now and then elsewhere."""

    def __init__(self, every_seconds: float = 10.0) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"), TimeRemainingColumn(),
            TextColumn("left  {task.fields[detail]}"),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._every = every_seconds
        self._task: Any = None
        self._stage, self._unit, self._total = "", "", 0
        self._started = self._told = 0.0

    def __enter__(self) -> Drawn:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, stage: str, total: int, unit: str) -> None:
        """See `runner.progress.Progress`."""
        self._stage, self._unit, self._total = stage, unit, total
        self._started = self._told = time.monotonic()
        self._task = self._bar.add_task(stage, total=total, unit=unit, detail="")

    def advance(self, done: int, detail: str = "") -> None:
        """See `runner.progress.Progress`."""
        stop.heed()
        self._bar.update(self._task, completed=done, detail=detail)
        now = time.monotonic()
        if not console.is_terminal and now - self._told >= self._every and done:
            left = (now - self._started) / done * (self._total - done)
            line = f"{self._stage}: {done}/{self._total} {self._unit}, {left:.0f} s left"
            print(f"{line}  {detail}".rstrip(), file=sys.stderr, flush=True)
            self._told = now

    def finish(self) -> None:
        """See `runner.progress.Progress`."""
        with suppress(KeyError):
            self._bar.remove_task(self._task)

    def warn(self, message: str) -> None:
        """See `runner.progress.Progress`."""
        console.print(f"warning: {message}", style="yellow", markup=False, highlight=False)


def _show_shard(outcome: Outcome, as_json: bool) -> None:
    console.print(
        f"{len(outcome.measured)} checkpoints measured, {len(outcome.reused)} kept from before; "
        "once all shards are done, the same command without --shard writes scores and report"
    )
    if as_json:
        measured, reused = list(outcome.measured), list(outcome.reused)
        _print_json({"run": str(outcome.root), "measured": measured, "reused": reused})
    else:
        print(outcome.root)


def _show_study_share(root: Path, done: Any, as_json: bool) -> None:
    console.print(
        f"{len(done.trained)} runs trained here, {len(done.reused)} elsewhere or before; once all "
        "shards have ended, the same command without --shard writes scores and report"
    )
    if as_json:
        _print_json({"run": str(root), "trained": list(done.trained), "reused": list(done.reused)})
    else:
        print(root)


def _show_demo(made: Demo) -> None:
    table = Table(title="Demo: seconds by stage", title_justify="left")
    for heading in ("stage", "budget", "took", "what"):
        table.add_column(heading, justify="right" if heading in ("budget", "took") else "left")
    for s in made.stages:
        table.add_row(s.name, f"{s.budget:.0f}", f"{s.seconds:.1f}", s.detail)
    total, budget = sum(s.seconds for s in made.stages), sum(s.budget for s in made.stages)
    table.add_row("all", f"{budget:.0f}", f"{total:.1f}", "")
    console.print(table)
    _show_metrics(made.result)


def _show_study_plan(made: Any, as_json: bool) -> None:
    if as_json:
        _print_json(asdict(made))
        return
    table = Table(title=f"{made.profile}: {len(made.runs)} runs", title_justify="left")
    for heading in ("run", "steps", "tokens", "FLOPs", "finished"):
        table.add_column(heading, justify="left" if heading in ("run", "finished") else "right")
    for r in made.runs:
        finished = "yes" if r.finished else "no"
        table.add_row(r.name, f"{r.steps:,}", f"{r.tokens:,}", f"{r.flops:.2e}", finished)
    out = _wide()
    out.print(table)
    out.print(f"{made.parameters:,} parameters, {made.flops:.2e} FLOPs for what is not finished")


def _show_dynamics_claims(root: Path) -> None:
    from factlife.store import RunStore

    table = Table(title="Claims", title_justify="left")
    for heading in ("claim", "verdict", "number", "value", "interval", "seeds"):
        table.add_column(heading)
    for r in RunStore.existing(root).read("dynamics_claims").to_pylist():
        span = "" if r["ci_low"] is None else f"{_short(r['ci_low'])} … {_short(r['ci_high'])}"
        value = (r["reason"] or "") if r["value"] is None else _short(r["value"])
        table.add_row(r["claim"], r["verdict"], r["number"], value, span, str(r["n"]))
    console.print(table)


def _show_metrics(result: dict[str, Any]) -> None:
    from factlife.scores import BY_NAME

    protocol = result["protocol"]
    badge = f" ({protocol['badge']})" if protocol["badge"] else ""
    title = f"{result['series_name']}, {protocol['name']} v{protocol['version']}{badge}"
    table = Table(title=title, title_justify="left")
    for heading in ("metric", "scope", "value", "95 % interval", "n", "unit"):
        table.add_column(heading)
    subsets = {"stated", "unstated"}
    for m in result["metrics"].values():
        headline = BY_NAME[m["metric"]].headline and m["scope"] in {"overall", "LOC", "NAME"}
        split = m["metric"] == "recall.whole_answer_accuracy" and m["scope"] in subsets
        if headline or split:
            if m["value"] is None:
                interval = ""
            elif str(m["interval_method"]).startswith("none: "):
                interval = "no interval"
            else:
                interval = f"{_short(m['ci_low'])} … {_short(m['ci_high'])}"
            value = m["reason"] if m["value"] is None else _short(m["value"])
            title = BY_NAME[m["metric"]].title
            table.add_row(title, m["scope"], value, interval, str(m["n"]), m["unit"])
    console.print(table)


def _show_claims(found: list[Claim]) -> None:
    table = Table(title="Claims about acquisition and forgetting", title_justify="left")
    for heading in ("", "claim", "verdict", "numbers"):
        table.add_column(heading)
    for c in found:
        lines = [p.line() for p in c.parts] + ([c.note] if c.note else [])
        table.add_row(str(c.number), c.text, c.verdict, "\n".join(lines))
    _wide().print(table)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"


def _show_series(report: Report, *, checked: bool) -> None:
    title = f"{report.series}: {len(report.revisions)} revisions"
    table = Table(title=title, title_justify="left")
    for heading in ("revision", "stage", "step", "tokens", "from", "commit"):
        table.add_column(heading, justify="right" if heading in ("step", "tokens") else "left")
    if checked:
        table.add_column("MB", justify="right")
        table.add_column("sha256")
    table.add_column("findings" if checked else "notes", overflow="fold")
    for v in report.revisions:
        cells = [v.revision, v.stage, "" if v.step is None else f"{v.step:,}", _count(v.tokens)]
        cells += [v.tokens_source, (v.commit_sha or "")[:10]]
        if checked:
            cells += ["?" if v.bytes is None else f"{v.bytes / 1e6:,.1f}"]
            cells += [(v.weights_sha256 or ("",))[0][:10]]
        table.add_row(*cells, "; ".join((*v.problems, *v.notes)) or ("ok" if checked else ""))
    out = _wide()
    out.print(table)
    for warning in report.warnings:
        out.print(f"warning: {warning}", soft_wrap=True)
    if checked:
        read = "files and tensors read" if report.tensors else "from the Hub's listings"
        out.print(f"{len(report.problems)} problems; {read}")


def _wide() -> Console:
    """Standard output; wide where no terminal says how wide it is."""
    width = None if sys.stdout.isatty() else 160
    return Console(markup=False, highlight=False, width=width)


def _count(tokens: int | None) -> str:
    return "unknown" if tokens is None else f"{tokens:,}"


def _show_findings(findings: list[Finding]) -> None:
    table = Table()
    for heading in ("", "what", "found", "to do"):
        table.add_column(heading, overflow="fold")
    for f in findings:
        table.add_row(f.state, f.name, f.found, f.todo)
    _wide().print(table)


def _show_plan(made: Plan) -> None:
    table = Table(
        title=f"{made.series}: {len(made.revisions)} of {made.available} revisions",
        title_justify="left",
    )
    headings = ["revision", "stage", "step", "tokens", "MB", "parameters", "finished"]
    remote = made.download > 0 or any(r.reason for r in made.revisions)
    for heading in [*headings, *(["fetch MB", "left out because"] if remote else [])]:
        table.add_column(heading)
    for r in made.revisions:
        table.add_row(
            r.revision,
            r.stage,
            "" if r.step is None else f"{r.step:,}",
            _count(r.tokens),
            f"{r.bytes / 1e6:,.1f}",
            f"{r.parameters:,}",
            "yes" if r.finished else "no",
            *([f"{r.download / 1e6:,.1f}", r.reason or ""] if remote else []),
        )
    out = _wide()
    out.print(table)
    out.print(
        f"profile {made.profile}, protocol {made.protocol_hash[:12]}, run folder {made.out}\n"
        f"{made.prompts:,} sentences ({made.prompt_tokens:,} tokens) a checkpoint, {made.device}; "
        f"about {made.seconds:,.0f} s and {made.flops:.1e} FLOPs for what is not finished, "
        f"{made.memory / 1e9:.1f} GB of memory (rough estimates, docs/scaling.md)",
        highlight=False,
        markup=False,
    )
    if made.injection:
        c = made.injection
        out.print(
            f"injection: {c.runs} runs, {c.steps:,} updates, {c.tokens:,} tokens, "
            f"{c.probe_tokens:,} more read by probes; {c.flops:.2e} FLOPs, "
            f"{c.memory / 1e9:,.1f} GB, about {c.seconds:,.0f} s of the above",
            highlight=False,
            markup=False,
        )
    _show_budget(out, made)
    if made.download:
        out.print(
            f"downloads {made.download / 1e6:,.1f} MB of weights while it measures, at most "
            f"{made.disk / 1e6:,.1f} MB of them on the disk at once (three checkpoints)",
            highlight=False,
            markup=False,
        )
    for warning in made.warnings:
        out.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)


def _show_budget(out: Console, made: Plan) -> None:
    """What each part takes, and what injection holds on each of so many devices."""
    table = Table(title="budget, one process on one device", title_justify="left")
    for heading in ("part", "FLOPs", "hours", "share", "GB"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for s in made.budget:
        share = s.seconds / made.seconds if made.seconds else 0.0
        table.add_row(
            s.part, f"{s.flops:.1e}", f"{s.seconds / 3600:,.3f}", f"{share:.0%}",
            f"{s.memory / 1e9:,.1f}",
        )  # fmt: skip
    table.add_row("all", f"{made.flops:.1e}", f"{made.seconds / 3600:,.3f}", "100%", "")
    out.print(table)
    if made.injection is None:
        return
    table = Table(title="injection, GB on each device (FSDP2)", title_justify="left")
    parts = {"gathered": "whole for a while"}
    sizes = made.injection.devices
    names = list(vars(next(iter(sizes.values())))) if sizes else []
    for heading in ("devices", *(parts.get(n, n) for n in names), "all", "fits"):
        table.add_column(heading, justify="right")
    for n, m in sizes.items():
        held = [f"{v / 1e9:,.1f}" for v in vars(m).values()]
        table.add_row(str(n), *held, f"{m.total / 1e9:,.1f}", m.fits or "none")
    out.print(table)


def main() -> None:
    """Entry point of the `factlife` command."""
    app()


if __name__ == "__main__":
    main()
