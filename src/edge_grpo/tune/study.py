"""A search over settings, trial by trial, in a resumable folder: it can be killed at any moment and restarted."""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from edge_grpo.base.digests import digest
from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.config.tree import located, to_tree, to_yaml
from edge_grpo.runs import workdir as kept
from edge_grpo.runs.durable import remove_tree, take_lock, write_whole
from edge_grpo.runs.folder import RunFolder
from edge_grpo.tune import record
from edge_grpo.tune.identity import identity_of
from edge_grpo.tune.record import State, Trial, best_of
from edge_grpo.tune.space import EarlyStop, Point, Space, Value, config_at, misfit, words_at
from edge_grpo.tune.suggest import Suggestion, suggest
from edge_grpo.tune.trial import LOG, RESULT, RUN, TASK, benchmarks_of

__all__ = ["BEST", "Study", "curve_of", "hopeless"]

BEST = "best.yaml"
_COMMAND = (sys.executable, "-m", "edge_grpo.tune.trial")
_POLL_S = 0.2
_GRACE_S = 20.0  # for a late or hopeless trial to shut down before it is killed
_MAX_INTERRUPTIONS = 3  # by an outside signal, before a trial counts as failed
_PATIENCE_S = 120.0  # for trials to finish their step and write a checkpoint
_INTERRUPTED = (-signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT)  # exit codes
_ACCURACY = "eval/accuracy"


def hopeless(curve: Sequence[tuple[int, float]], others: Sequence[Sequence[tuple[int, float]]], rule: EarlyStop) -> str:
    """Why the median rule stops a trial; empty if it does not.

    Args:
        curve: its held-out accuracy so far, as (step, accuracy).
        others: the curves of the finished trials.
        rule: the step and the number of trials from which it applies.
    """
    if not rule.enabled or not curve or curve[-1][0] < rule.after_steps:
        return ""
    step, best = curve[-1][0], max(accuracy for _, accuracy in curve)
    reached = [[accuracy for at, accuracy in other if at <= step] for other in others if other and other[-1][0] >= step]
    if len(reached) < rule.after_trials:
        return ""
    median = statistics.median(max(own) for own in reached)
    if best >= median:
        return ""
    return (
        f"best held-out accuracy {best:.1%} up to step {step}, below the median {median:.1%} of {len(reached)} trials"
    )


def curve_of(run: Path) -> tuple[tuple[int, float], ...]:
    """Held-out accuracy of a run so far, as (step, accuracy)."""
    rows = RunFolder(run).rows()
    return tuple((row["step"], float(row[_ACCURACY])) for row in rows if row.get(_ACCURACY) is not None)


@dataclass
class _Running:
    """A trial with a running process."""

    number: int
    settings: dict[str, Value]
    folder: Path
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)
    ending: tuple[State, str] | None = None  # why the study ended it
    deadline: float = math.inf

    def end(self, state: State, reason: str) -> None:
        """Ask it to shut down within the grace period."""
        self.ending, self.deadline = (state, reason), time.monotonic() + _GRACE_S
        self.process.terminate()

    def close(self) -> None:
        """Release a process that has ended."""
        if self.process.stdin:
            self.process.stdin.close()


class Study:
    """The trials of one space in one folder.

    Args:
        space: the search space.
        decomposed: whether the search sees the parts, or only their sum.
        folder: the study's folder; empty = one under ``runs/tune``, named after ``name`` and everything the trials
            depend on, so that the same command finds it again.
        name: name of the space.

    Raises:
        ConfigError: a setting is wrong, or a part of the objective does not exist.
        DataError: a benchmark's data cannot be found.
        EngineError: a model does not exist.
    """

    def __init__(self, space: Space, *, decomposed: bool = True, folder: str = "", name: str = "space") -> None:
        self.space, self.decomposed = space, decomposed
        self.base = config_at(space, {})
        benchmarks = benchmarks_of(space.objective, self.base)
        self.resolutions = {each.name: space.objective.resolution(len(each.problems)) for each in benchmarks}
        self.identity = identity_of(space, self.base, benchmarks, decomposed=decomposed)
        key = digest(json.dumps(self.identity, sort_keys=True))
        self.folder = Path(folder).expanduser() if folder else Path("runs") / "tune" / f"{name}-{key}"

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Create the folder and hold its lock.

        Raises:
            ConfigError: another process is using the folder, it holds another study, or it cannot be written.
            DataError: its ``trials.jsonl`` is damaged.
        """
        with kept.opened(self.folder):
            kept.check_identity(self.folder, self.identity, what="study")
            record.drop_partial_line(self.folder)
            yield

    def run(self, *, jobs: int = 1, on_trial: Callable[[Sequence[Trial], Trial], None]) -> list[Trial]:
        """Run trials until the space's number is reached, or no untried point is left.

        Unfinished trials are resumed first. Running trials are shut down cleanly before this returns or raises.

        Args:
            jobs: trials in parallel, one thread each.
            on_trial: called with all trials and the new one whenever a trial is over.

        Raises:
            ConfigError: none of the initial trials (or of all trials, if there are fewer) has finished.
            DataError: a file of the study is damaged.
        """
        running: list[_Running] = []
        self._wait_for_earlier()
        trials = self.recovered()
        self._settle(trials)
        interruptions: Counter[int] = Counter()
        try:
            while True:
                self._check_any_finished(trials, self.space.initial)
                while len(running) < jobs and (task := self._next(trials, running)):
                    running.append(self._start(*task))
                if not running:
                    self._check_any_finished(trials, 1)
                    return trials
                for own in [each for each in running if self._is_over(each, trials)]:
                    own.close()
                    running.remove(own)
                    if self._was_interrupted(own):
                        interruptions[own.number] += 1
                        if interruptions[own.number] < _MAX_INTERRUPTIONS:
                            continue  # it will be resumed
                    trial = self._outcome(own)
                    record.append(self.folder, trial)
                    trials = sorted([*trials, trial], key=lambda each: each.number)
                    self._settle(trials)
                    on_trial(trials, trial)
                time.sleep(_POLL_S)
        finally:
            _end_all(running)

    def recovered(self) -> list[Trial]:
        """The trials that are over, including those that left scores but whose line was never written.

        Raises:
            DataError: a file of the study is damaged.
        """
        trials = record.read(self.folder)
        for trial in trials:
            self._check(trial, f"{self.folder / record.FILE}: trial {trial.number}")
        known = {f"{trial.number:04d}" for trial in trials}
        for result in sorted((self.folder / "trials").glob(f"*/{RESULT}")):
            if result.parent.name not in known:
                trials.append(self._finished(*self._task(result.parent), result.parent))
                record.append(self.folder, trials[-1])
        return sorted(trials, key=lambda trial: trial.number)

    def _check(self, trial: Trial, where: str) -> None:
        """Reject a trial that does not belong to this space."""
        wrong, parts = misfit(self.space, trial.settings), set(self.space.objective.parts)
        if not wrong and trial.state == "finished" and set(trial.parts) != parts:
            wrong = f"it scores {', '.join(sorted(trial.parts))}, the objective has {', '.join(sorted(parts))}"
        if wrong:
            raise DataError(
                f"{where}: {wrong}; fix that, or delete the trial's line from {record.FILE} and its folder to rerun it"
            )

    def _task(self, folder: Path) -> tuple[int, dict[str, Value]]:
        """The number and settings of a trial that was started."""
        path = folder / TASK
        try:
            task = json.loads(path.read_text(encoding="utf-8"))
            number, settings = int(task["number"]), dict(task["settings"])
            if f"{number:04d}" != folder.name:
                raise ValueError(f"it belongs to trial {number}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not the task of a trial ({error}); delete {folder} to rerun it") from None
        self._check(Trial(number, settings, "failed"), str(path))
        return number, settings

    def _check_any_finished(self, trials: Sequence[Trial], enough: int) -> None:
        """Give up if ``enough`` trials are over and none has finished."""
        if len(trials) >= min(enough, self.space.trials) and best_of(trials) is None:
            raise ConfigError(
                f"{self.folder}: none of {len(trials)} trials has finished; the last one: {trials[-1].state} "
                f"({trials[-1].reason}); fix that and delete their lines from {record.FILE}, or, to change settings "
                "of the space other than trial_s, choose another --out"
            )

    def suggestion(self, trials: Sequence[Trial], pending: Sequence[Point] = (), *, number: int) -> Suggestion | None:
        """The settings for trial ``number``; None if every point of the space has been tried."""
        return suggest(
            self.space, trials, pending, number=number, decomposed=self.decomposed, resolutions=self.resolutions
        )

    def _next(self, trials: Sequence[Trial], running: Sequence[_Running]) -> tuple[int, dict[str, Value]] | None:
        """The number and settings of the next trial to start; None if there is none."""
        known = {trial.number for trial in trials} | {own.number for own in running}
        number = next((number for number in range(1, self.space.trials + 1) if number not in known), None)
        if number is None:
            return None
        started = self.folder / "trials" / f"{number:04d}"
        if (started / TASK).exists():
            return self._task(started)
        pending = [own.settings for own in running]
        found = self.suggestion(trials, pending, number=number)
        return (number, found.point) if found else None

    def _start(self, number: int, settings: dict[str, Value]) -> _Running:
        folder = self.folder / "trials" / f"{number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        task = {
            "number": number,
            "settings": settings,
            "base": self.space.base,
            "words": self._words(settings),
            "eval_words": words_at(self.space, {}),
            "objective": asdict(self.space.objective),
        }
        write_whole(folder / TASK, json.dumps(task, indent=1) + "\n")
        with (folder / LOG).open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - this Python, this package
                [*_COMMAND, str(folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches only this process, which shuts trials down cleanly
                env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            )
        return _Running(number, settings, folder, process)

    def _words(self, settings: Mapping[str, Value]) -> list[str]:
        """A trial's settings, on top of the base; only the median rule needs held-out evaluations."""
        quiet = () if self.space.early_stop.enabled else ("eval.every=0", "eval.at_start=false", "eval.at_end=false")
        return [*words_at(self.space, settings), *quiet, "run.trackers=[]"]

    def _is_over(self, own: _Running, trials: Sequence[Trial]) -> bool:
        """Whether its process has ended; if it is late or hopeless, ask it to."""
        if own.process.poll() is not None:
            return True
        seconds = time.monotonic() - own.began
        if own.ending is None and self.space.trial_s and seconds > self.space.trial_s:
            own.end("late", f"not done after {self.space.trial_s:g} s")
        if own.ending is None and self.space.early_stop.enabled:
            others = [trial.curve for trial in trials if trial.state == "finished"]
            why = hopeless(curve_of(own.folder / RUN), others, self.space.early_stop)
            if why:
                own.end("stopped", why)
        if time.monotonic() > own.deadline:
            own.process.kill()
        return False

    def _was_interrupted(self, own: _Running) -> bool:
        """Whether an outside signal shut a trial down before it had its scores."""
        return not own.ending and not (own.folder / RESULT).exists() and own.process.returncode in _INTERRUPTED

    def _wait_for_earlier(self) -> None:
        """Wait for the orphaned trials of a killed search: they finish their step, and may leave their scores."""
        deadline = time.monotonic() + _PATIENCE_S
        for task in (self.folder / "trials").glob(f"*/{TASK}"):
            while _is_locked(task.parent):
                if time.monotonic() > deadline:
                    raise ConfigError(f"{task.parent}: a process of an earlier search is still running there; end it")
                time.sleep(_POLL_S)

    def _outcome(self, own: _Running) -> Trial:
        """The outcome of a trial whose process has ended; existing scores count, however it ended."""
        if (own.folder / RESULT).exists():
            return self._finished(own.number, own.settings, own.folder)
        state, reason = own.ending or ("failed", _last_line(own.folder / LOG, own.process.returncode))
        seconds = time.monotonic() - own.began
        return Trial(own.number, own.settings, state, {}, None, seconds, reason, curve_of(own.folder / RUN))

    def _finished(self, number: int, settings: Mapping[str, Value], folder: Path) -> Trial:
        """A trial with scores in its folder."""
        path = folder / RESULT
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            parts = {name: float(found["parts"][name]) for name in self.space.objective.parts}
            seconds = float(found["seconds"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not the scores of a trial ({error}); delete it to evaluate again") from None
        whole = sum(weight * parts[name] for name, weight in self.space.objective.parts.items())
        return Trial(number, settings, "finished", parts, whole, seconds, "", curve_of(folder / RUN))

    def _settle(self, trials: Sequence[Trial]) -> None:
        """Keep only the best trial's weights, and write its configuration."""
        self._tidy(trials)
        self._write_best(trials)

    def _write_best(self, trials: Sequence[Trial]) -> None:
        """Write the best trial's configuration, for `edge-grpo train`."""
        best = best_of(trials)
        if best:
            tree = located(to_tree(config_at(self.space, best.settings)))
            text = f"# trial {best.number}, {self.space.objective.metric}: {best.whole:.4f}\n{to_yaml(tree)}"
            write_whole(self.folder / BEST, text)

    def _tidy(self, trials: Sequence[Trial]) -> None:
        """Delete all weights but the best trial's; answers, metrics and rollouts stay."""
        best = best_of(trials)
        for trial in trials:
            run = self.folder / "trials" / f"{trial.number:04d}" / RUN
            for folder in (run / "checkpoints", *([] if trial is best else [run / "final"])):
                remove_tree(folder)


def _is_locked(folder: Path) -> bool:
    """Whether a process holds a trial's lock."""
    try:
        take_lock(folder / ".lock")[0].close()
    except BlockingIOError:
        return True
    return False


def _end_all(running: Sequence[_Running]) -> None:
    """Shut trials down and wait for them; kill those that take too long."""
    for own in running:
        own.process.terminate()
    deadline = time.monotonic() + _PATIENCE_S
    try:
        for own in running:
            own.process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for own in running:
            if own.process.poll() is None:
                own.process.kill()
                own.process.wait()
            own.close()


def _last_line(log: Path, code: int) -> str:
    """The last line a trial logged, or the signal that ended it."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {code}")[:500]
