"""All errors a user can cause share one base class."""

from edge_grpo.base import errors


def test_all_errors_share_a_base() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.EdgeGrpoError)
