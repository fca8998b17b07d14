"""A run on a cluster: one task a shard, sent with submitit, watched, retried and put together.

A task is the same call as `factlife run --shard i/n`: whatever stops it, the next try finds its
finished parts. That a task is over is read from its result file and from `squeue`, which every
Slurm answers; accounting (`sacct`) is not needed.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from factlife.config import Profile
from factlife.corpora.fact_probes import load_fact_probes
from factlife.errors import PartialError, UsageError
from factlife.injection.corpus import load_corpus
from factlife.runner.injection import plans_of
from factlife.runner.progress import Progress, Silent
from factlife.runner.run import Options, Outcome, refuse_early, run
from factlife.runner.shards import INJECTION, ROW, Shard, dealt_by_checkpoint, own_downloads
from factlife.runner.tracks import Tracks
from factlife.series.discover import find_series
from factlife.series.local import Series
from factlife.series.select import select
from factlife.store import RunStore

EXECUTORS = ("here", "slurm", "local")
FOLDER = ".tasks"  # of the run: submission files, results and logs of the tasks
# States of Slurm (squeue, "job state codes") in which a task will not run again by itself.
ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "TIMEOUT",
)  # fmt: skip
GONE = "GONE"  # no longer listed
SHORTEST = 5  # minutes: Slurm may signal a minute early, and a node takes a while to load torch
PREEMPTION_SECONDS = 90  # between the signal to stop and the end, at most
# Reasons of Slurm (squeue, "job reason codes") for which a task would wait for ever.
HOPELESS = (
    "AccountNotAllowed", "BadConstraints", "InvalidAccount", "InvalidQOS", "PartitionDown",
    "PartitionInactive", "PartitionNodeLimit", "PartitionTimeLimit", "QOSNotAllowed",
)  # fmt: skip
# What the tracks beside recall and circuits write last at a checkpoint.
ENDS: Mapping[str, tuple[str, ...]] = {"dynamics": ("subject_attention",), ROW: ("checkpoints",)}
STALLS = 3  # so often a task may be stopped with nothing finished in between
STALLED = "nothing was finished between its last stops"


@dataclass(frozen=True)
class Cluster:
    """What to ask of the cluster.

    Attributes:
        executor: slurm, or local for processes on this machine.
        minutes: wall-clock limit of a task; a task that reaches it is queued again.
        array_size: shards; None for one a (checkpoint, track).
        parallel: tasks that run at once, at most.
        retries: how often a failed task is sent again.
        poll: seconds between two looks at the queue.
    """

    executor: str = "slurm"
    partition: str | None = None
    gpus: int = 0
    minutes: int = 60
    array_size: int | None = None
    parallel: int = 256
    retries: int = 2
    poll: float = 10.0


@dataclass(frozen=True)
class Task:
    """One shard, as it is sent to a node.

    Attributes:
        stamp: of the run folder when the task was sent, or last stopped.
        stalls: how often it was stopped since then, with an equal stamp.
    """

    source: str
    profile: Profile
    out: Path
    options: Options
    shard: Shard
    stamp: tuple[int, int] = (0, 0)
    stalls: int = 0

    def __call__(self) -> list[str]:
        """Measure the shard; names of the revisions that were measured now."""
        if not self.options.keep_cache:
            own_downloads(self.source, self.shard)
        options = replace(self.options, shard=self.shard)
        outcome = run(find_series(self.source), self.profile, self.out, options, Silent())
        return list(outcome.measured)

    def checkpoint(self) -> Any:
        """What submitit queues again after a preemption or at the time limit: the same task.

        Raises:
            PartialError: it comes to nothing, however often it is queued again.
        """
        from submitit.helpers import DelayedSubmission

        # `scontrol requeue` makes Slurm end this task, and with it the very `scontrol` that has
        # asked for it, which would then count as failed. What is ignored here is ignored there.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        now = _stamp(self.out)
        stalls = self.stalls + 1 if now == self.stamp else 0
        if stalls == STALLS:
            raise PartialError(f"stopped {STALLS} times, and {STALLED}: give it more --time")
        return DelayedSubmission(replace(self, stamp=now, stalls=stalls))


def _stamp(out: Path) -> tuple[int, int]:
    """Number of files that hold something finished, and when the newest was written (ns)."""
    times = []
    for top in ("tables", ".injection", ".dynamics"):
        for folder, inner, names in os.walk(out / top):  # passes over a folder that vanishes
            inner[:] = [n for n in inner if not n.startswith(".")]
            for name in (n for n in names if not n.startswith(".")):  # others are half written
                with contextlib.suppress(FileNotFoundError):  # a state that was just replaced
                    times.append(Path(folder, name).stat().st_mtime_ns)
    return len(times), max(times, default=0)


def minutes(text: str) -> int:
    """Read a limit as Slurm writes it: minutes, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS -> minutes.

    Raises:
        UsageError: another form, or no time at all.
    """
    forms = (
        r"(?P<m>\d+)", r"(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)", r"(?P<d>\d+)-(?P<h>\d+)",
        r"(?P<d>\d+)-(?P<h>\d+):(?P<m>\d+)", r"(?P<d>\d+)-(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)",
    )  # fmt: skip
    found = next((m for form in forms if (m := re.fullmatch(form, text.strip()))), None)
    of = {k: int(v) for k, v in found.groupdict().items()} if found else {}
    seconds = of.get("d", 0) * 86400 + of.get("h", 0) * 3600 + of.get("m", 0) * 60 + of.get("s", 0)
    if seconds == 0:
        raise UsageError(f"--time {text}: give minutes, HH:MM:SS or D-HH:MM:SS, more than nothing")
    return math.ceil(seconds / 60)


def run_on_cluster(
    series: Series,
    profile: Profile,
    out: Path,
    options: Options,
    cluster: Cluster,
    progress: Progress,
) -> Outcome:
    """Send the shards of a run, wait for them, send failed ones again, put the run together.

    The same call goes on where an earlier one ended. Stopped by hand, it cancels its tasks.

    Raises:
        UsageError: what a run refuses; no submitit, no Slurm, or a task that Slurm refuses.
        PartialError: shards that failed every time; what was finished is kept.
    """
    out = out.resolve()  # a node may start elsewhere
    refuse_early(series, profile, out, options)
    pieces = _Pieces.of(series, profile, out, options)
    executor = _executor(out / FOLDER, cluster)
    total = cluster.array_size or pieces.shards
    source = str(Path(series.source).resolve()) if Path(series.source).exists() else series.source
    if cluster.executor == "slurm" and cluster.minutes < SHORTEST:
        progress.warn(
            f"--time of less than {SHORTEST} minutes: a task that reaches it may end before it can "
            "be queued again"
        )
    stamp = _stamp(out)
    tasks = [Task(source, profile, out, options, Shard(i + 1, total), stamp) for i in range(total)]
    progress.start("measuring", len(pieces.names), "pieces")
    given_up: dict[Shard, str] = {}
    for attempt in range(cluster.retries + 1):
        failed = _attempt(executor, tasks, pieces, cluster, progress)
        for shard, why in failed.items():
            last = attempt == cluster.retries or STALLED in why
            progress.warn(f"shard {shard} failed ({why}): {'given up' if last else 'sent again'}")
            if last:
                given_up[shard] = why
        tasks = [t for t in tasks if t.shard in failed and t.shard not in given_up]
        if not tasks:
            break
    progress.finish()
    if given_up:
        stalled = any(STALLED in why for why in given_up.values())
        times = "" if stalled else f" {_times(cluster.retries + 1)}"
        raise PartialError(
            f"{len(given_up)} of {total} shards failed{times}: "
            f"{'; '.join(f'{s} ({why})' for s, why in _in_order(given_up))}; finished parts are "
            f"kept: see the logs in {out / FOLDER}, then run the same command again"
        )
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    here = replace(profile, execution=replace(profile.execution, device="cpu"))
    return run(series, here, out, replace(options, assemble=True), progress)


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


def _in_order(failed: Mapping[Shard, str]) -> list[tuple[Shard, str]]:
    return sorted(failed.items(), key=lambda item: item[0].index)


# ---- pieces, for progress ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Pieces:
    """The pieces of a run and the parts each of them ends with.

    Attributes:
        names: a (checkpoint, track) or an injection run each.
        shards: how many shards give each (checkpoint, track) a shard of its own.
    """

    names: tuple[str, ...]
    parts: tuple[tuple[Path, ...], ...]
    shards: int

    @classmethod
    def of(cls, series: Series, profile: Profile, out: Path, options: Options) -> _Pieces:
        usable = [r for r in series.revisions if r.name not in options.exclude]
        names = {r.name for r in select(series.revisions, profile.selection)}
        chosen = [r for r in usable if r.name in names]
        if not chosen:
            raise UsageError(
                f"{series.name}: every chosen revision is excluded: nothing to measure"
            )
        store = RunStore(out)
        tables = dict(Tracks(load_fact_probes(), profile).tables(last=False))
        dealt = dealt_by_checkpoint(profile.tracks, last=True)
        tables |= {t: ends for t, ends in ENDS.items() if t in dealt}
        rows = chosen[-1:] if dealt == (ROW,) else chosen
        every = {
            f"{r.name} {track}": tuple(store.part_path(t, r.partition) for t in tables[track])
            for r in rows
            for track in dealt
        }
        if INJECTION not in profile.tracks:
            return cls(tuple(every), tuple(every.values()), len(every))
        starts = {*names, *profile.injection.starts}
        revisions = [r for r in usable if r.name in starts]
        plans = plans_of(profile, load_corpus(profile.injection.corpus), revisions)
        shards = len({p.revision for p in plans}) + (0 if dealt == (ROW,) else len(every))
        for plan in plans:
            run_row = store.part_path("injection_runs", {"injection_run": plan.name})
            every[f"{plan.revision} {plan.name}"] = (run_row,)
        return cls(tuple(every), tuple(every.values()), shards)

    def done(self) -> int:
        """Pieces whose parts are all there."""
        return sum(all(p.is_file() for p in parts) for parts in self.parts)


# ---- submitit ----------------------------------------------------------------------------------


def _executor(folder: Path, cluster: Cluster) -> Any:
    """A submitit executor that knows what to ask for."""
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise UsageError(
            "--executor slurm and local need submitit: python -m pip install 'factlife[cluster]'"
        ) from error
    if cluster.executor == "local":
        executor: Any = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=cluster.minutes, gpus_per_node=cluster.gpus)
        return executor
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=1000)
    except RuntimeError as error:
        raise UsageError(
            "--executor slurm: there is no srun on the PATH; run this where jobs are submitted, or "
            "use --shard i/n with any other engine"
        ) from error
    executor.update_parameters(
        job_name="factlife",
        time=cluster.minutes,
        array_parallelism=cluster.parallel,
        signal_delay_s=min(PREEMPTION_SECONDS, 20 * cluster.minutes),  # a third of it, if short
        additional_parameters={"requeue": True},
        **({"partition": cluster.partition} if cluster.partition else {}),
        **({"gpus_per_node": cluster.gpus} if cluster.gpus else {}),
    )
    return executor


def _attempt(
    executor: Any, tasks: Sequence[Task], pieces: _Pieces, cluster: Cluster, progress: Progress
) -> dict[Shard, str]:
    """Send tasks and wait for all of them; the shards that failed, and why."""
    waves = [tasks]
    if cluster.executor == "local":  # processes start at once: no more than can run side by side
        waves = [tasks[i : i + cluster.parallel] for i in range(0, len(tasks), cluster.parallel)]
    failed: dict[Shard, str] = {}
    for wave in waves:
        jobs = dict(zip([t.shard for t in wave], _send(executor, wave), strict=True))
        try:
            ended = _watch(jobs, _states_of(cluster), pieces, cluster.poll, progress)
        except BaseException:
            for job in jobs.values():
                job.cancel(check=False)
            raise
        failed |= {shard: why for shard, why in ended.items() if why is not None}
    return failed


def _send(executor: Any, tasks: Sequence[Task]) -> list[Any]:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with executor.batch():
            return [executor.submit(task) for task in tasks]
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
        raise UsageError(
            f"the cluster refuses the tasks: {_last_line(str(error))}; see --partition, --gpus, "
            "--time and --array-size"
        ) from error


@dataclass(frozen=True)
class State:
    """What the queue says of a task: its state, and why it waits."""

    name: str
    reason: str = ""


States = Callable[[Sequence[Any]], Mapping[str, State]]


def _watch(
    jobs: Mapping[Shard, Any],
    states: States,
    pieces: _Pieces,
    poll: float,
    progress: Progress,
) -> dict[Shard, str | None]:
    """Wait until every job is over; why each one failed, None where it did not."""
    ended: dict[Shard, str | None] = {}
    over: dict[Shard, str] = {}  # ended in the queue, how; their result may be on its way
    told: set[str] = set()
    while True:
        open_ = {shard: job for shard, job in jobs.items() if shard not in ended}
        now = states(list(open_.values()))
        for shard, job in open_.items():
            state = now.get(job.job_id, State(GONE)).name
            if job.paths.result_pickle.is_file():
                ended[shard] = _failure(job)
            elif shard in over:
                ended[shard] = _without_result(over[shard], job.paths.stderr)
            elif state in ENDED or state == GONE:
                over[shard] = state
        still = {job.job_id for shard, job in open_.items() if shard not in ended}
        now = {job: state for job, state in now.items() if job in still}
        progress.advance(pieces.done(), _detail(now, ended, len(jobs)))
        for reason in {s.reason for s in now.values()} & set(HOPELESS) - told:
            told.add(reason)
            progress.warn(
                f"tasks wait, and may wait for ever, for the reason {reason}: stop this "
                "(Ctrl-C), and see --partition, --gpus and --time"
            )
        if len(ended) == len(jobs):
            return ended
        time.sleep(poll)


def _detail(now: Mapping[str, State], ended: Mapping[Shard, str | None], total: int) -> str:
    """`1 of 4 tasks running, 2 waiting (Priority), 1 over, 0 failed`."""
    running = sum(s.name == "RUNNING" for s in now.values())
    reasons = Counter(s.reason for s in now.values() if s.name == "PENDING")
    waiting = ""
    if reasons:
        why = reasons.most_common(1)[0][0]
        waiting = f", {reasons.total()} waiting" + (f" ({why})" if why else "")
    failures = sum(why is not None for why in ended.values())
    return f"{running} of {total} tasks running{waiting}, {len(ended)} over, {failures} failed"


def _failure(job: Any) -> str | None:
    """Why a job that left a result failed; None if it did not."""
    error = job.exception()
    if error is None:
        return None
    trace = str(error).split("\n-----")  # the traceback stands between two such lines
    return f"{_last_line(trace[1] if len(trace) > 2 else trace[0])}; log {job.paths.stderr}"


def _without_result(state: str, log: Path) -> str:
    """Why a task ended that could not say so itself."""
    try:
        words = _last_line(log.read_text("utf-8", "replace"))
    except OSError:
        words = ""
    hint = ""
    if state == "TIMEOUT" or "User defined signal" in words:  # Slurm's word for SIGUSR1 and 2
        hint = ": its time was over before it could be queued again, give it more --time"
    elif state in ("FAILED", "OUT_OF_MEMORY") and words:
        hint = f": {words}"
    return f"{state}, without a result{hint}; log {log}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


def _states_of(cluster: Cluster) -> States:
    return _local_states if cluster.executor == "local" else _slurm_states


def _local_states(jobs: Sequence[Any]) -> Mapping[str, State]:
    """As `_slurm_states`, of processes on this machine."""
    alive = {"jobState": "RUNNING"}
    return {j.job_id: State("RUNNING" if j.get_info() == alive else GONE) for j in jobs}


def _slurm_states(jobs: Sequence[Any]) -> Mapping[str, State]:
    """State of each job that Slurm lists; one it has forgotten is absent.

    An answer that does not come counts as running: the next look will tell.
    """
    ids = sorted({str(j.job_id).split("_")[0] for j in jobs})
    if not ids:
        return {}
    words = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r"]
    unknown = {j.job_id: State("UNKNOWN") for j in jobs}
    try:
        done = subprocess.run(
            [*words, f"--jobs={','.join(ids)}"], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return unknown
    if done.returncode != 0 and "Invalid job id" not in done.stderr:
        return unknown
    return parse_squeue(done.stdout.splitlines())


def parse_squeue(lines: Iterable[str]) -> dict[str, State]:
    """Lines `12_3|PENDING|Priority` -> state by job; Slurm writes None for no reason."""
    found = {}
    for line in lines:
        job, _, rest = line.strip().partition("|")
        name, _, reason = rest.partition("|")
        if name:
            found[job] = State(name, "" if reason == "None" else reason)
    return found
