"""What a run leans on besides packages: shared memory, locks, grading workers, devices, the hub, rollout servers."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from edge_grpo.base.quiet import quiet_failures
from edge_grpo.planning.findings import Finding, State, failure

__all__ = ["WORKERS_FIX", "devices", "hub", "locks", "server", "shared_memory", "source", "workers"]

WORKERS_FIX: Final = (
    "pip install --force-reinstall math-verify sympy; a sandbox must allow new processes and Unix sockets"
)
_SERVER_S: Final = 3.0
_DATA: Final = (".json", ".jsonl", ".parquet", ".csv")
_SHARED: Final = 64e6  # bytes of shared memory that a container has by default, too few for NCCL


def shared_memory(place: Path = Path("/dev/shm")) -> Finding:  # noqa: S108 - where it always is
    """Whether there is shared memory for ranks, which talk through it."""
    if not place.is_dir():
        return Finding("shared memory", State.NOTE, f"no {place}", "several ranks on GPUs need it; mount a tmpfs there")
    free = 0.0
    with suppress(OSError):
        free = float(shutil.disk_usage(place).free)
    text = f"{free / 1e9:.2f} GB free in {place}"
    if free <= _SHARED:
        fix = "start the container with --shm-size=1g (or --ipc=host): NCCL needs it for several ranks"
        return Finding("shared memory", State.NOTE, text, fix)
    return Finding("shared memory", State.FINE, text)


def source(setting: str, path: str) -> Finding:
    """Whether what a setting names can be found: a file, a folder, or else a name on the hub."""
    if Path(path).expanduser().exists():
        return Finding(setting, State.FINE, path)
    if path.startswith((".", "/", "~")) or path.count("/") != 1 or Path(path).suffix in _DATA:  # hub names have a slash
        return Finding(setting, State.BROKEN, f"no such file or folder: {path}", f"set {setting} to one that is here")
    return Finding(setting, State.FINE, f"{path}, from the hub or its cache")


def locks(runs: Path) -> Finding:
    """Whether files can be locked where runs are written; in the nearest folder that exists."""
    from edge_grpo.runs.durable import take_lock  # noqa: PLC0415

    place = runs.absolute()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".edge-grpo-") as name:
            held, sound = take_lock(Path(name) / ".lock")
            held.close()
    except OSError as error:
        fix = "make it writable, or set run.dir to a folder that is"
        return Finding("run folders", State.BROKEN, f"{place} cannot be written ({error.strerror})", fix)
    if not sound:
        fix = "never start two runs in one folder, or set run.dir to a local disk"
        return Finding("run folders", State.NOTE, f"{place} does not support locks", fix)
    return Finding("run folders", State.FINE, f"{place} can be written and locked")


def workers() -> Finding:
    """Whether a grading worker starts and answers; it is really asked."""
    from edge_grpo.base.records import Problem, Verdict  # noqa: PLC0415
    from edge_grpo.rewards.builtin import Rewards, RewardSettings  # noqa: PLC0415

    with Rewards(RewardSettings(workers=1)) as rewards:
        (grade,) = rewards.grade([Problem("doctor", "", ("x^2+2x",))], [r"\boxed{x(x+2)}"], [True], [()])
    if grade.verdict is Verdict.CORRECT:
        return Finding("grading workers", State.FINE, "one started, and compared two formulas")
    found = f"one started, and called x(x+2) = x^2+2x {grade.verdict}" + (f" ({grade.note})" if grade.note else "")
    return Finding("grading workers", State.BROKEN, found, WORKERS_FIX)


def devices(load: Callable[[str], Any]) -> Iterator[Finding]:
    """The build of torch, and the GPUs that it sees."""
    torch = load("torch")
    yield Finding("threads", State.FINE, f"torch {torch.__version__} uses {torch.get_num_threads()}")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            yield Finding(f"cuda:{number}", State.FINE, f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
        return
    build = torch.version.cuda
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    if driver and not build:
        fix = "install the CUDA build of torch (pytorch.org); this one runs on CPUs alone"
        yield Finding("devices", State.NOTE, "an NVIDIA driver, but a torch built for CPUs", fix)
    elif driver:
        fix = "check nvidia-smi and CUDA_VISIBLE_DEVICES, and whether the driver is new enough for this CUDA"
        yield Finding("devices", State.NOTE, f"torch is built for CUDA {build}, and sees no GPU; runs use the CPU", fix)
    else:
        yield Finding("devices", State.FINE, "cpu; no GPU")


def hub(environment: Mapping[str, str]) -> Finding:
    """Whether models and data sets may be downloaded, and whether a token is there; it is never read."""
    home = Path(environment.get("HF_HOME") or Path.home() / ".cache/huggingface")
    path = environment.get("HF_TOKEN_PATH")
    token = bool(environment.get("HF_TOKEN")) or (Path(path) if path else home / "token").is_file()
    known = "a token is set" if token else "no token (gated models and data sets need one)"
    text = f"downloads go to {home}, {known}"
    offline = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if _is_on(environment.get(name, ""))]
    if offline:
        text = f"offline ({offline[0]} is set), so only models and data sets in {home} or in folders; {known}"
        return Finding("hub", State.NOTE, text, f"unset {offline[0]} to download others")
    if home.exists() and not os.access(home, os.W_OK):
        return Finding("hub", State.NOTE, f"{home} cannot be written", "set HF_HOME to a folder that can")
    return Finding("hub", State.FINE, text)


def server(url: str, environment: Mapping[str, str]) -> Finding:
    """Whether a rollout server answers."""
    import httpx2  # noqa: PLC0415

    fix, key = "start it with `edge-grpo serve MODEL`, or correct the address", environment.get("EDGE_GRPO_API_KEY", "")
    headers, found = {"Authorization": f"Bearer {key}"} if key else {}, []
    with quiet_failures():
        why = failure(
            lambda: found.append(httpx2.get(f"{url.rstrip('/')}/version", headers=headers, timeout=_SERVER_S))
        )
    if why:
        return Finding("rollout server", State.BROKEN, f"{url} does not answer ({why})", fix)
    (answer,) = found
    if answer.status_code in (401, 403):
        fix = "put its key into the environment variable EDGE_GRPO_API_KEY"
        return Finding("rollout server", State.BROKEN, f"{url} rejects the key (HTTP {answer.status_code})", fix)
    if answer.status_code != 200:
        return Finding("rollout server", State.BROKEN, f"{url} answers with HTTP {answer.status_code}", fix)
    return Finding("rollout server", State.FINE, f"{url} answers")


def _is_on(value: str) -> bool:
    return value.strip().upper() in ("1", "ON", "YES", "TRUE")
