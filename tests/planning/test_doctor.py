"""What the doctor finds where something is missing, old, or damaged; it never fails itself."""

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from edge_grpo.planning.doctor import examine
from edge_grpo.planning.findings import Finding, State
from edge_grpo.planning.machine import cores_allowed, free_disk, free_memory
from edge_grpo.planning.surroundings import devices, hub, locks, server, shared_memory, workers

WANTED = ["numpy>=1", "rich>=13,<99", 'pillow>=10; extra == "images"', 'gone>=1; extra == "tune"']


def version(name: str) -> str:
    if name in ("gone", "torchvision"):
        raise importlib.metadata.PackageNotFoundError(name)
    return "14.0"


def found(
    tmp_path: Path,
    *,
    load: Callable[[str], Any] = importlib.import_module,
    wanted: list[str] = WANTED,
    version: Callable[[str], str] = version,
    environment: Mapping[str, str] | None = None,
    trackers: Sequence[str] = (),
) -> dict[str, Finding]:
    every = examine(
        tmp_path,
        thorough=False,
        load=load,
        version=version,
        requirements=wanted,
        environment=environment or {},
        trackers=trackers,
    )
    return {each.topic: each for each in every}


def test_a_sound_machine_has_nothing_broken(tmp_path: Path) -> None:
    seen = found(tmp_path)
    assert [each for each in seen.values() if each.state is State.BROKEN] == []
    assert {"python", "memory", "cores", "disk", "run folders", "hub", "numpy", "extra images"} <= seen.keys()
    assert seen["numpy"] == Finding("numpy", State.FINE, "14.0")
    assert all(each.fix for each in seen.values() if each.state is not State.FINE)


def test_an_extra_that_is_missing_is_a_note_with_its_command(tmp_path: Path) -> None:
    extra = found(tmp_path)["extra tune"]
    assert (extra.state, extra.fix) == (State.NOTE, "pip install 'edge-grpo[tune]'")
    assert "gone is not installed" in extra.text


def test_a_tracker_that_the_settings_name_must_be_there(tmp_path: Path) -> None:
    wanted = [*WANTED, 'gone>=1; extra == "wandb"', 'rich>=13; extra == "mlflow"']
    seen = found(tmp_path, wanted=wanted, trackers=("tensorboard", "wandb", "mlflow"))
    assert seen["extra wandb"].state is State.BROKEN
    assert seen["extra wandb"].text == "gone is not installed; run.trackers names it"
    assert seen["extra mlflow"].state is State.FINE
    assert found(tmp_path, wanted=wanted)["extra wandb"].state is State.NOTE


def test_an_extra_that_the_installed_package_does_not_list_is_a_note(tmp_path: Path) -> None:
    def load(name: str) -> Any:
        if name == "trackio":
            raise ImportError("no module")

    seen = found(tmp_path, load=load, trackers=("trackio", "mlflow"))
    assert {seen[f"extra {name}"].state for name in ("wandb", "mlflow")} == {State.NOTE}
    assert "does not list it" in seen["extra wandb"].text
    assert seen["extra trackio"].state is State.BROKEN
    assert "trackio cannot be imported (ImportError: no module); run.trackers names it" in seen["extra trackio"].text


def test_a_package_whose_module_has_another_name_is_imported_by_that(tmp_path: Path) -> None:
    asked: list[str] = []
    every = ["mlflow-skinny>=3", "PyYAML>=6"]
    sound = lambda name: "14.0"  # noqa: E731
    checks = examine(tmp_path, load=asked.append, version=sound, requirements=every, environment={})
    assert [each.state for each in checks if each.topic in ("mlflow-skinny", "PyYAML")] == [State.FINE] * 2
    assert {"mlflow", "yaml"} <= set(asked)


def test_a_package_that_is_old_or_missing_is_broken(tmp_path: Path) -> None:
    seen = found(tmp_path, wanted=["rich>=99", "gone>=1"])
    assert (seen["rich"].state, seen["rich"].text) == (State.BROKEN, "14.0 is installed, wanted >=99")
    assert seen["gone"].fix == "pip install 'gone>=1'"


@pytest.mark.parametrize("error", [ImportError("no symbol"), ValueError("two\nlines"), SystemExit(3), RecursionError()])
def test_a_package_that_cannot_be_imported_is_a_finding(tmp_path: Path, error: BaseException) -> None:
    def load(name: str) -> Any:
        if name == "numpy":
            raise error
        return None

    numpy = found(tmp_path, load=load)["numpy"]
    assert numpy.state is State.BROKEN
    assert f"cannot be imported ({type(error).__name__}" in numpy.text
    assert "\n" not in numpy.text
    assert "--force-reinstall" in numpy.fix


def test_what_needs_a_broken_package_is_not_tried(tmp_path: Path) -> None:
    def load(name: str) -> Any:
        raise ImportError(name)

    every = examine(tmp_path, load=load, version=version, requirements=["torch>=2", "math-verify>=0.7"], environment={})
    topics = {each.topic: each.state for each in every}
    assert topics["torch"] is topics["math-verify"] is State.BROKEN
    assert not {"devices", "grading workers"} & topics.keys()


def test_metadata_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    def broken(name: str) -> str:
        raise OSError("input/output error")

    seen = found(tmp_path, version=broken)
    assert "cannot be checked (OSError: input/output error)" in seen["packages"].text
    assert found(tmp_path, wanted=["not a requirement !"])["packages"].state is State.BROKEN


def test_more_threads_than_cores_are_named(tmp_path: Path) -> None:
    cores = found(tmp_path, environment={"OMP_NUM_THREADS": "999"})["cores"]
    assert cores.state is State.NOTE
    assert "999 threads" in cores.text
    assert "export OMP_NUM_THREADS=" in cores.fix


# --- the machine ------------------------------------------------------------------------------------------------------


def test_a_container_has_less_than_its_machine(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:       8000 kB\n")
    group = tmp_path / "group"
    assert free_memory(system=tmp_path / "meminfo", group=group) == 8000 * 1024
    group.mkdir()
    (group / "memory.max").write_text("5000000\n")
    (group / "memory.current").write_text("4000000\n")
    assert free_memory(system=tmp_path / "meminfo", group=group) == 1_000_000
    (group / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert free_memory(system=tmp_path / "meminfo", group=group) == 1_500_000
    (group / "memory.max").write_text("max\n")
    assert free_memory(system=tmp_path / "meminfo", group=group) == 8000 * 1024
    assert free_memory(system=tmp_path / "gone", group=tmp_path / "gone") is None


def test_a_quota_bounds_the_cores(tmp_path: Path) -> None:
    whole = cores_allowed(group=tmp_path)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert cores_allowed(group=tmp_path) == 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cores_allowed(group=tmp_path) == whole


def test_a_folder_that_does_not_exist_yet_is_on_the_disk_of_its_parent(tmp_path: Path) -> None:
    assert free_disk(tmp_path / "not" / "yet") is not None
    assert locks(tmp_path / "not" / "yet") == Finding(
        "run folders", State.FINE, f"{tmp_path} can be written and locked"
    )
    assert not any(tmp_path.iterdir())


def test_shared_memory_that_is_missing(tmp_path: Path) -> None:
    assert shared_memory(tmp_path / "gone").state is State.NOTE
    assert shared_memory(tmp_path).state is State.FINE


def test_a_grading_worker_is_really_asked() -> None:
    assert workers() == Finding("grading workers", State.FINE, "one started, and compared two formulas")


def test_a_token_is_never_shown(tmp_path: Path) -> None:
    secret = "hf_abcdefgh"
    shown = hub({"HF_TOKEN": secret, "HF_HOME": str(tmp_path)})
    assert "a token is set" in shown.text
    assert secret not in f"{shown}"
    assert "no token" in hub({"HF_HOME": str(tmp_path)}).text
    off = hub({"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    assert (off.state, off.fix) == (State.NOTE, "unset HF_HUB_OFFLINE to download others")


def test_gpus_are_listed_with_their_memory() -> None:
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        mem_get_info=lambda _: (60e9, 80e9),
        get_device_name=lambda _: "A GPU",
    )
    torch = SimpleNamespace(__version__="9", get_num_threads=lambda: 4, cuda=cuda)
    _, gpu = devices(lambda _: torch)
    assert (gpu.topic, gpu.text) == ("cuda:0", "A GPU, 60.0 of 80.0 GB free")


class Answering(BaseHTTPRequestHandler):
    """A server that wants a key."""

    def do_GET(self) -> None:
        self.send_response(200 if self.headers.get("Authorization") == "Bearer right" else 401)
        self.end_headers()

    def log_message(self, format: str, *words: object) -> None:
        """Quiet."""


def test_a_server_that_answers_rejects_or_is_gone() -> None:
    with HTTPServer(("127.0.0.1", 0), Answering) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{listening.server_port}"
        assert server(url, {"EDGE_GRPO_API_KEY": "right"}).state is State.FINE
        wrong = server(url, {"EDGE_GRPO_API_KEY": "wrong"})
        assert "EDGE_GRPO_API_KEY" in wrong.fix
        assert "wrong" not in wrong.text
        listening.shutdown()
    gone = server(url, {})
    assert gone.state is State.BROKEN
    assert "does not answer" in gone.text


@pytest.mark.parametrize(
    ("path", "state"),
    [("here.jsonl", State.FINE), ("gone.jsonl", State.BROKEN), ("./gone", State.BROKEN), ("owner/name", State.FINE)],
)
def test_a_model_or_data_that_is_not_here_is_broken(
    tmp_path: Path, path: str, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.jsonl").touch()
    (each,) = [
        one for one in examine(tmp_path, thorough=False, paths=[("data.path", path)]) if one.topic == "data.path"
    ]
    assert each.state is state
    assert path in each.text
