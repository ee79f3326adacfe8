"""Workers start with the grader loaded."""

from edge_grpo.rewards.workers.calls import packed
from edge_grpo.rewards.workers.worker import Worker


def test_a_worker_starts_with_the_grader_and_without_torch() -> None:
    worker = Worker(1024)
    names = {"edge_grpo.rewards.workers.warm", "math_verify", "sympy", "torch", "transformers"}
    loaded = worker.call(packed(eval, (f"sorted({names!r} & set(__import__('sys').modules))",)), 30.0)
    worker.close()
    assert loaded.value == ["edge_grpo.rewards.workers.warm", "math_verify", "sympy"]
