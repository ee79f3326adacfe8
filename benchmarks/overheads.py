"""What EDGE-GRPO costs on top of GRPO: the entropy-driven advantage, and guided error correction.

    make bench ARGS=overheads

The bundled model on the built-in problems with 5 and 6 operands, most of which it answers wrong; 16 prompts x 8
completions, the same seeds for both methods, and a learning rate of 1e-9, so that both sample the same answers.

``eda_overhead``: both methods prepare and learn from the same rollouts, without corrections, in alternation; the median
over rounds of the difference in seconds, as a share of a whole step of GRPO (sampling and grading included). Below it,
``eda_overhead_signal``: the same for the calls of ``signal`` alone, the only place where the method does more; it is
the more precise of the two.

``gec_overhead``: whole steps with corrections (the defaults of `method=edge_grpo`) and of GRPO, in alternation; the
median over rounds of the ratio of seconds, minus 1. ``gec_extra_tokens``: by how much more tokens are generated,
and ``gec_extra_trained_tokens`` by how much more are trained on, injected ones among them. The bar is on the difference
of the first two, ``gec_overhead_beyond_tokens``.
"""

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from measuring import Figures, alternate, command_line, machine, over, print_figures, shown, table

from edge_grpo.config.tree import load_config
from edge_grpo.training.session import Session, open_session

KEYS = (
    "eda_overhead",
    "eda_overhead_signal",
    "gec_overhead",
    "gec_extra_tokens",
    "gec_extra_trained_tokens",
    "gec_overhead_beyond_tokens",
)
SETTINGS = (
    "data.arithmetic.operands={5: 1, 6: 1}",
    "train.learning_rate=1e-9",
    "train.schedule=constant",
    "eval.every=0",
    "eval.at_start=false",
    "eval.at_end=false",
    "run.rollouts=false",
    "run.trackers=[]",
)


@contextmanager
def sessions(first: tuple[str, ...], second: tuple[str, ...]) -> Iterator[tuple[Session, Session]]:
    """Two runs of the same settings but for the method."""
    one, two = (load_config(None, [*SETTINGS, *own]) for own in (first, second))
    with open_session(one) as left, open_session(two) as right:
        yield left, right


def difference(more: list[float], less: list[float]) -> list[float]:
    """How many seconds longer each round of the first side took."""
    return [a - b for a, b in zip(more, less, strict=True)]


def advantage(rounds: int, further: tuple[str, ...] = ()) -> Figures:
    """The share of a step that the entropy-driven advantage costs."""
    edge = ("method=edge_grpo", "method.correction.amount=none", *further)
    with sessions(("method=grpo", *further), edge) as (grpo, eda):
        began = time.perf_counter()
        collected = grpo.collect()
        sampling = [time.perf_counter() - began]

        def prepared(session: Session, _: int) -> float:
            begun = time.perf_counter()
            session.learn(collected, session.prepare(collected))
            return time.perf_counter() - begun

        def signal(session: Session, _: int, times: int = 20) -> float:
            begun = time.perf_counter()
            for _ in range(times):
                session.updater.signal(batch)
            return (time.perf_counter() - begun) / times

        lesson = grpo.prepare(collected)
        assert lesson is not None, "plain GRPO keeps all groups"
        batch = lesson.batch
        named = {"grpo": grpo, "edge_grpo": eda}
        for _ in range(3):
            begun = time.perf_counter()
            grpo.collect()
            sampling.append(time.perf_counter() - begun)
        whole = alternate({name: partial(prepared, own) for name, own in named.items()}, rounds)
        alone = alternate({name: partial(signal, own) for name, own in named.items()}, rounds)
    step = statistics.median(sampling[1:]) + statistics.median(whole["grpo"])
    rows, figures = [], {}
    for key, title, found in (
        ("eda_overhead", "prepare and learn", whole),
        ("eda_overhead_signal", "signal alone", alone),
    ):
        shares = [each / step for each in difference(found["edge_grpo"], found["grpo"])]
        figures[key] = statistics.median(shares)
        cells = [shown([1e3 * each for each in found[name]], 2) for name in named]
        rows.append([title, *cells, shown([100 * each for each in shares], 2, " %")])
    print(f"entropy-driven advantage; a step of GRPO takes {step:.3f} s")
    print(table(["", "grpo, ms", "edge_grpo, ms", "difference, of a step"], rows), flush=True)
    return dict(figures)


def correction(rounds: int, further: tuple[str, ...] = ()) -> Figures:
    """How much longer a step with corrections takes, and how much more of it is generated."""
    tokens: dict[str, list[float]] = {"grpo": [], "edge_grpo": []}
    phases: dict[str, dict[str, list[float]]] = {name: {} for name in tokens}
    trained: dict[str, list[float]] = {name: [] for name in tokens}
    with sessions(("method=grpo", *further), ("method=edge_grpo", *further)) as pair:

        def step(name: str, session: Session, _: int) -> float:
            begun = time.perf_counter()
            collected = session.collect()
            lesson = session.prepare(collected)
            metrics = session.learn(collected, lesson)
            spent = time.perf_counter() - begun
            tokens[name].append(float(metrics["tokens"][0]))
            trained[name].append(float(lesson.signal.mask.sum()) if lesson else 0.0)
            for phase, seconds in session.watch.take("sample", "grade", "correct", "score", "update").items():
                phases[name].setdefault(phase, []).append(seconds)
            return spent

        named = dict(zip(tokens, pair, strict=True))
        found = alternate({name: partial(step, name, own) for name, own in named.items()}, rounds)
    counted, learned = ({name: own[-rounds:] for name, own in each.items()} for each in (tokens, trained))
    longer, more, larger = (over(each["edge_grpo"], each["grpo"]) for each in (found, counted, learned))
    print("guided error correction")
    print(
        table(["", "grpo", "edge_grpo", "edge_grpo over grpo"], list(_rows(found, counted, learned, phases))),
        flush=True,
    )
    return {
        "gec_overhead": None if longer is None else longer - 1,
        "gec_extra_tokens": None if more is None else more - 1,
        "gec_extra_trained_tokens": None if larger is None else larger - 1,
        "gec_overhead_beyond_tokens": None if longer is None or more is None else longer - more,
    }


def _rows(
    seconds: Mapping[str, list[float]],
    tokens: Mapping[str, list[float]],
    trained: Mapping[str, list[float]],
    phases: Mapping[str, Mapping[str, list[float]]],
) -> Iterator[list[str]]:
    """The rows of the table about corrections: seconds, tokens generated and trained on, and phases."""
    listed: list[tuple[str, Mapping[str, Any], int]] = [
        ("seconds per step", seconds, 3),
        ("generated tokens", tokens, 0),
        ("trained tokens", trained, 0),
    ]
    for title, found, digits in listed:
        own, base = found["edge_grpo"], found["grpo"]
        yield [title, shown(base, digits), shown(own, digits), shown(over(own, base))]
    for phase in phases["grpo"]:
        yield [f"of it: {phase}", *(shown(phases[name][phase], 3) for name in ("grpo", "edge_grpo")), ""]


def measure(*, quick: bool = False, further: tuple[str, ...] = ()) -> Figures:
    """The overheads of both parts of EDGE-GRPO; ``further`` settings apply to both methods."""
    return advantage(5 if quick else 61, further) | correction(3 if quick else 11, further)


def main() -> None:
    """Measure, and print the figures as JSON."""
    arguments = command_line(__doc__).parse_args()
    print(machine(), flush=True)
    print_figures(measure(quick=arguments.quick))


if __name__ == "__main__":
    main()
