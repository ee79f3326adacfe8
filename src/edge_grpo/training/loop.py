"""The training loop: collect, prepare, learn, log; a run can be stopped anywhere and resumed exactly."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.interrupt import Interruption, StepDropped
from edge_grpo.base.job import Meeting, next_command, resume_command
from edge_grpo.base.metrics import means
from edge_grpo.base.records import Group
from edge_grpo.base.text import counted
from edge_grpo.base.world import World, join_world
from edge_grpo.config.tree import Config, config_hash, to_yaml
from edge_grpo.methods.base import Method
from edge_grpo.rollout.engine import Engine, ServerError
from edge_grpo.runs.durable import saving
from edge_grpo.runs.folder import RunFolder
from edge_grpo.trackers.base import Opener, Tracker
from edge_grpo.trackers.console import Display, Silent
from edge_grpo.trackers.open import check_installed, open_trackers
from edge_grpo.training.banner import banner, legend
from edge_grpo.training.journal import Journal, finished
from edge_grpo.training.memory import NoMemoryLeftError
from edge_grpo.training.notices import first_failure, notices
from edge_grpo.training.resumption import BOUNDS, Resumption, agreed_tree, patience, plan, start_of, tree_of
from edge_grpo.training.session import Session, open_session
from edge_grpo.training.update import is_over

__all__ = ["Result", "resume", "train"]

_PHASES = ("sample", "grade", "correct", "score", "update")


@dataclass(frozen=True)
class Result:
    """Where a run's files are, how many steps are done, and the signal that stopped it (0 = finished)."""

    folder: Path
    steps: int
    signal: int = 0

    @property
    def metrics(self) -> tuple[dict[str, Any], ...]:
        """The rows of ``metrics.jsonl``, one per step; that of step 0 is the evaluation before training."""
        return tuple(RunFolder(self.folder).rows())

    @property
    def model(self) -> Path | None:
        """The folder of the trained model; None if a signal stopped the run before its end."""
        return None if self.signal else RunFolder(self.folder).final


def train(
    config: Config,
    *,
    method: Method | None = None,
    display: Display | None = None,
    engine: Engine | None = None,
    trackers: Sequence[Tracker | Opener] = (),
) -> Result:
    """Train a model and leave a run folder behind.

    Args:
        config: the settings, from :func:`edge_grpo.config.tree.load_config`. Local paths are stored as absolute ones.
        method: a custom method, in place of ``config.method``.
        display: shows progress; None = nothing is shown.
        engine: a custom engine, in place of ``rollout.engine``; the caller opens and closes it.
        trackers: further receivers of the metrics, or functions of the run folder that open one; closed at the end.
    Raises:
        EdgeGrpoError: a subclass, with a message for the user.
    """
    if config.data.pairs and config.train.max_tokens:
        raise ConfigError("train.max_tokens: with data.pairs nothing is sampled; leave it 0 and set train.steps")
    world = join_world(config.distributed.timeout_s)
    with world.unbroken():
        tree = agreed_tree(config, method, engine, world)

    def create() -> RunFolder:
        return RunFolder.create(config.run.dir, tree, to_yaml(tree), config_hash(tree))

    with _opened(world, create) as folder:
        try:
            return _run(config, method or config.method, folder, display or Silent(), engine, trackers, world)
        except BaseException:  # even a signal while the model is loading
            if world.is_first:
                folder.discard_unstarted()
            raise


def resume(
    path: str | Path,
    config: Config | None = None,
    *,
    method: Method | None = None,
    display: Display | None = None,
    engine: Engine | None = None,
    trackers: Sequence[Tracker | Opener] = (),
    accept_changes: bool = False,
) -> Result:
    """Resume a run from its last checkpoint, or from the start if it has none; bit for bit on a CPU.

    Args:
        path: the run folder.
        config: the settings to resume with; only those may differ that do not change what is trained (see
            :mod:`edge_grpo.training.resumption`).
        method: the custom method, if the run was started with one.
        display: shows progress.
        engine: a custom engine, if the run was started with one.
        trackers: as for :func:`train`; rewound first.
        accept_changes: train on although data, model or reward code changed since the last start.
    Raises:
        CheckpointError: no run there, its configuration was edited, or another setting or an input was changed.
    """
    root = Path(path).expanduser()
    world = join_world(patience(root, config))

    def locked() -> RunFolder:
        folder = RunFolder(root)
        with saving(root, root):
            folder.lock()
        return folder

    with world.unbroken(lambda: next_command(root)):
        resumption = world.first(lambda: plan(root, config, method, engine, accept=accept_changes))
    with _opened(world, locked) as folder:
        used = method or resumption.config.method
        return _run(resumption.config, used, folder, display or Silent(), engine, trackers, world, resumption)


@contextmanager
def _opened(world: World, work: Callable[[], RunFolder]) -> Iterator[RunFolder]:
    """The folder that rank 0 has opened; the lock stays with it."""
    made: list[RunFolder] = []

    def opened() -> Path:
        made.append(work())
        return made[0].path

    named: list[Path] = []
    with world.unbroken(lambda: next_command(named[0] if named else None)):
        named.append(world.first(opened))
        if place := Meeting.of():
            place.name_run(named[0])
        with closing(made[0] if made else RunFolder(named[0])) as folder:
            yield folder


def _run(
    config: Config,
    method: Method,
    folder: RunFolder,
    display: Display,
    engine: Engine | None,
    custom: Sequence[Tracker | Opener],
    world: World,
    resumption: Resumption | None = None,
) -> Result:
    """Run from the newest checkpoint to the end, or until a signal."""
    stop = Interruption(world.any if world.size > 1 else None)
    world = replace(world, exposed=stop.exposed)
    display = display if world.is_first else Silent()
    done = world.first(lambda: finished(folder))
    if done and is_over(config.train, done.step, done.tokens):
        reached = (done.step >= config.train.steps, 0 < config.train.max_tokens <= done.tokens)
        bounds = " and ".join(compress(BOUNDS, reached))
        idle = f", so {' and '.join(resumption.changed)} had no effect" if resumption and resumption.changed else ""
        display.say(f"{folder.path} is finished ({counted(done.step, 'step')}){idle}; raise {bounds} to train further")
        return Result(folder.path, done.step)
    if world.is_first and not folder.has_lock:
        display.say(f"{folder.path}: this file system does not support locks; do not start a second run in this folder")
    check_installed(config.run)
    with ExitStack() as stack:
        tree = tree_of(config, None if method is config.method else method, engine)
        opened = open_trackers(config.run, folder.path, custom, settings=tree, history=folder.rows, say=display.say)
        trackers = [stack.enter_context(closing(each)) for each in (opened if world.is_first else ())]
        stack.callback(display.close)
        session = stack.enter_context(open_session(config, method, engine=engine, say=display.say, world=world))
        journal = Journal(folder, trackers, display, world=world)
        start = start_of(session, folder.path, resumption)
        journal.restore(session)
        journal.begin(session, start, resumption)
        stack.enter_context(stop)
        display.start(config.train.steps, session.step, max_tokens=config.train.max_tokens, tokens=session.tokens)
        for line in (*banner(session, folder.path), *legend(config, evaluated=bool(session.held_out))):
            display.say(line)
        try:
            _train(session, journal, stop)
        except StepDropped:
            journal.save(session)
            display.close()
            display.say(f"stopped before step {session.step + 1}; resume with: {resume_command(folder.path)}")
            return Result(folder.path, session.step, max(world.gather(lambda: stop.signal)))
        except NoMemoryLeftError as error:
            raise journal.rescued(session, error) from error
        except ServerError as error:
            raise journal.parted(session, error) from error
        journal.finish(session)
        if best := journal.best_note(session):
            display.say(best)
        return Result(folder.path, session.step)


def _train(session: Session, journal: Journal, stop: Interruption) -> None:
    """Take steps until the run is over.

    Raises:
        StepDropped: a signal arrived; the current step has changed nothing.
    """
    config, watch = session.config, session.watch
    told: set[str] = set()

    def explain(row: dict[str, float], groups: Sequence[Group] = ()) -> None:
        found = notices(row, config, session.method, failure=first_failure(groups))
        for line in (line for kind, line in found.items() if kind not in told):
            journal.display.say(f"step {session.step}: {line}")
        told.update(found)

    if session.step == 0 and session.evaluation_is_due and journal.is_empty():
        with stop.droppable():
            row = session.evaluate()
        journal.log(0, row)
        explain(row)
    if journal.lacks_last_evaluation(session):  # the run ends where it was stopped
        with stop.droppable():
            row = session.evaluate()
        journal.extend(session.step, row)
    while not session.is_over:
        with stop.droppable():
            began = watch.clock()
            collected = session.collect()
            lesson = session.prepare(collected)
        row = means(session.learn(collected, lesson))
        seconds = watch.clock() - began
        row |= {"time/step_s": seconds, "time/tokens_per_s": row["tokens"] / seconds}
        row |= {f"time/{name}_s": spent for name, spent in watch.take(*_PHASES).items()}
        if session.evaluation_is_due:
            row |= session.evaluate()
        with watch.phase("write"):
            journal.write_rollouts(session, collected, lesson)
        row["time/write_s"] = watch.take("write")["write"]
        with watch.phase("write"):
            journal.log(session.step, row)
            explain(row, collected.groups + collected.dropped)
            if session.step % config.train.checkpoint_every == 0 or session.is_over or journal.is_best(session, row):
                journal.save(session)
