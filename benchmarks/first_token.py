"""One side of startup.py: `python benchmarks/first_token.py FILE train ...` runs the command line until it samples.

When the engine returns its first batch, the reading of the monotonic clock goes into the file, and the process gets a
SIGTERM, upon which the command line ends as it always does. Nothing is imported earlier than in an ordinary run: the
class is watched from the moment on that its module is loaded.
"""

import os
import signal
import sys
import time
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

ENGINE = "edge_grpo.rollout.hf"


class Watch(MetaPathFinder):
    """Finds the engine's module, and has its ``DecodeEngine.sample`` tell when it returns."""

    def __init__(self, file: str) -> None:
        self.file = file

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        """The module's own spec with a loader that patches the class; None for every other module."""
        if fullname != ENGINE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        assert spec is not None
        assert spec.loader is not None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            sample = module.DecodeEngine.sample

            def watched(*arguments: Any) -> Any:
                found = sample(*arguments)
                with open(self.file, "w", encoding="utf-8") as out:
                    out.write(repr(time.monotonic()))
                os.kill(os.getpid(), signal.SIGTERM)
                return found

            module.DecodeEngine.sample = watched

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if __name__ == "__main__":
    sys.meta_path.insert(0, Watch(sys.argv.pop(1)))
    from edge_grpo.cli.main import main

    main()
