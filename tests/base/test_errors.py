"""Every error a user can cause is one kind."""

from edge_grpo.base import errors


def test_all_errors_share_a_base():
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.EdgeGrpoError)
