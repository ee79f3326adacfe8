"""A griffe extension: classes decorated with ``@settings`` are dataclasses, so that their fields are shown."""

from typing import Any

from griffe import Class, ExprCall, ExprKeyword, ExprName, Extension

SETTINGS = "edge_grpo.base.settings.settings"


class SettingsClasses(Extension):
    """Says of such a class what ``@settings`` does: ``@dataclass(kw_only=True)``."""

    def on_class_instance(self, *, cls: Class, **others: Any) -> None:  # noqa: ARG002 - the library's arguments
        """Called for every class, before its fields become parameters."""
        for decorator in cls.decorators:
            if decorator.callable_path == SETTINGS:
                dataclass = ExprName("dataclass", parent=ExprName("dataclasses"))
                decorator.value = ExprCall(dataclass, [ExprKeyword("kw_only", "True")])
