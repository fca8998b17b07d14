"""A run on a cluster: one task a shard, sent with submitit, watched, retried and put together.

A task is the same call as `factlife run --shard i/n`: whatever stops it, the next try finds its
finished parts. That a task is over is read from its result file and from `squeue`, which every
Slurm answers; accounting (`sacct`) is not needed.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from factlife.config import Profile
from factlife.corpora.fact_probes import load_fact_probes
from factlife.errors import PartialError, UsageError
from factlife.runner.progress import Progress, Silent
from factlife.runner.run import Options, Outcome, run
from factlife.runner.shards import Shard, own_downloads
from factlife.runner.tracks import Tracks
from factlife.series.discover import find_series
from factlife.series.local import Revision, Series
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
PREEMPTION_SECONDS = 90  # between the signal to stop and the end


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
    """One shard, as it is sent to a node."""

    source: str
    profile: Profile
    out: Path
    options: Options
    shard: Shard

    def __call__(self) -> list[str]:
        """Measure the shard; names of the revisions that were measured now."""
        if not self.options.keep_cache:
            own_downloads(self.source, self.shard)
        options = replace(self.options, shard=self.shard)
        outcome = run(find_series(self.source), self.profile, self.out, options, Silent())
        return list(outcome.measured)

    def checkpoint(self) -> Any:
        """What submitit queues again after a preemption or at the time limit: the same task."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


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
        UsageError: no submitit, no Slurm, or a task that Slurm refuses.
        PartialError: shards that failed every time; what was finished is kept.
    """
    out = out.resolve()  # a node may start elsewhere
    pieces = _Pieces.of(series, profile, out, options)
    executor = _executor(out / FOLDER, cluster)
    total = cluster.array_size or len(pieces.names)
    source = str(Path(series.source).resolve()) if Path(series.source).exists() else series.source
    tasks = [Task(source, profile, out, options, Shard(i + 1, total)) for i in range(total)]
    progress.start("measuring", len(pieces.names), "pieces")
    failed: dict[Shard, str] = {}
    for attempt in range(cluster.retries + 1):
        failed = _attempt(executor, tasks, pieces, cluster, progress)
        tasks = [t for t in tasks if t.shard in failed]
        for shard, why in failed.items():
            again = "sent again" if attempt < cluster.retries else "given up"
            progress.warn(f"shard {shard} failed ({why}): {again}")
        if not tasks:
            break
    progress.finish()
    if failed:
        raise PartialError(
            f"{len(failed)} of {total} shards failed {cluster.retries + 1} times: "
            f"{'; '.join(f'{s} ({why})' for s, why in failed.items())}; finished parts are kept: "
            f"see the logs in {out / FOLDER}, then run the same command again"
        )
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    here = replace(profile, execution=replace(profile.execution, device="cpu"))
    return run(series, here, out, replace(options, assemble=True), progress)


# ---- pieces, for progress ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Pieces:
    """The pieces of a run and the parts each of them ends with."""

    names: tuple[str, ...]
    parts: tuple[tuple[Path, ...], ...]

    @classmethod
    def of(cls, series: Series, profile: Profile, out: Path, options: Options) -> _Pieces:
        chosen: Sequence[Revision] = select(series.revisions, profile.selection)
        chosen = [r for r in chosen if r.name not in options.exclude]
        if not chosen:
            raise UsageError(
                f"{series.name}: every chosen revision is excluded: nothing to measure"
            )
        store = RunStore(out)
        tables = Tracks(load_fact_probes(), profile).tables(last=False)
        every = {
            f"{r.name} {track}": tuple(store.part_path(t, r.partition) for t in names)
            for r in chosen
            for track, names in tables.items()
        }
        return cls(tuple(every), tuple(every.values()))

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
        signal_delay_s=PREEMPTION_SECONDS,
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


States = Callable[[Sequence[Any]], Mapping[str, str]]


def _watch(
    jobs: Mapping[Shard, Any],
    states: States,
    pieces: _Pieces,
    poll: float,
    progress: Progress,
) -> dict[Shard, str | None]:
    """Wait until every job is over; why each one failed, None where it did not."""
    ended: dict[Shard, str | None] = {}
    over: set[Shard] = set()  # ended in the queue; their result may be on its way
    while True:
        open_ = {shard: job for shard, job in jobs.items() if shard not in ended}
        now = states(list(open_.values()))
        for shard, job in open_.items():
            state = now.get(job.job_id, GONE)
            if job.paths.result_pickle.is_file():
                ended[shard] = _failure(job)
            elif shard in over:
                ended[shard] = f"{state}, without a result; log {job.paths.stderr}"
            elif state in ENDED or state == GONE:
                over.add(shard)
        running = sum(now.get(j.job_id) == "RUNNING" for j in open_.values())
        failures = sum(why is not None for why in ended.values())
        detail = f"{running} of {len(jobs)} tasks running, {len(ended)} over, {failures} failed"
        progress.advance(pieces.done(), detail)
        if len(ended) == len(jobs):
            return ended
        time.sleep(poll)


def _failure(job: Any) -> str | None:
    """Why a job that left a result failed; None if it did not."""
    error = job.exception()
    if error is None:
        return None
    trace = str(error).split("\n-----")  # the traceback stands between two such lines
    return f"{_last_line(trace[1] if len(trace) > 2 else trace[0])}; log {job.paths.stderr}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


def _states_of(cluster: Cluster) -> States:
    return _local_states if cluster.executor == "local" else _slurm_states


def _local_states(jobs: Sequence[Any]) -> Mapping[str, str]:
    """As `_slurm_states`, of processes on this machine."""
    return {j.job_id: "RUNNING" if j.get_info() == {"jobState": "RUNNING"} else GONE for j in jobs}


def _slurm_states(jobs: Sequence[Any]) -> Mapping[str, str]:
    """State of each job that Slurm lists; one it has forgotten is absent.

    An answer that does not come counts as running: the next look will tell.
    """
    ids = sorted({str(j.job_id).split("_")[0] for j in jobs})
    if not ids:
        return {}
    words = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T"]
    try:
        done = subprocess.run(
            [*words, f"--jobs={','.join(ids)}"], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return {j.job_id: "UNKNOWN" for j in jobs}
    if done.returncode != 0 and "Invalid job id" not in done.stderr:
        return {j.job_id: "UNKNOWN" for j in jobs}
    return parse_squeue(done.stdout.splitlines())


def parse_squeue(lines: Iterable[str]) -> dict[str, str]:
    """Lines `12_3|RUNNING` -> state by job."""
    pairs = (line.strip().partition("|") for line in lines)
    return {job: state for job, _, state in pairs if state}
