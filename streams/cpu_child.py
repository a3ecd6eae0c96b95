"""The other side of `streams/cpu.py` and `streams/resident.py`: a small program that calls a function and writes what came of it.

It imports nothing of ours, but what it is told to call.
"""

import contextlib
import ctypes
import errno
import importlib
import importlib.util
import os
import pickle
import re
import resource
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO


def main() -> None:
    """Read the call from stdin (a resident child: call after call), answer on what was stdout; prints of the function go to stderr."""
    _die_with_parent()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    calls = sys.stdin.buffer
    where = pickle.load(calls)
    if os.getppid() != where["parent"]:  # it died before we asked the kernel to tell us
        os._exit(1)
    sys.path[:] = where["path"]
    _limit(where["memory"])
    if where.get("resident"):
        _serve(where, calls, answers)
    answers.write(_outcome(where, calls))
    answers.flush()


def _serve(where: dict[str, Any], calls: BinaryIO, answers: BinaryIO) -> None:
    """Answer call after call, each answer behind its length, until nobody asks any more."""
    while True:
        try:
            call = where | pickle.load(calls)
        except EOFError:
            sys.exit(0)
        answer = _outcome(call, calls)
        answers.write(len(answer).to_bytes(8, "big") + answer)
        answers.flush()


def _outcome(where: dict[str, Any], calls: BinaryIO) -> bytes:
    try:
        function: Any = _module(where["module"], where["file"])
        for part in where["name"].split("."):
            function = getattr(function, part)
        return pickle.dumps(("done", function(*pickle.load(calls))))
    except MemoryError:
        return pickle.dumps(("failed", "out_of_memory", "MemoryError", f"it needs more than {where['memory'] >> 20} MiB"))
    except Exception as error:
        kind = type(error).__name__
        text = str(error)[:2000]
        if "bad_alloc" in text:  # what C++ calls a MemoryError
            return pickle.dumps(("failed", "out_of_memory", kind, f"it needs more than {where['memory'] >> 20} MiB"))
        if any(os.strerror(full) in text for full in (errno.ENOSPC, errno.EDQUOT)):  # C++ has no error numbers to look at
            return pickle.dumps(("failed", "disk_full", kind, text))
        return pickle.dumps(("failed", str(getattr(error, "code", _code(kind))), kind, text))


def _code(kind: str) -> str:
    """`ValueError` as a code: value_error."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower()


def _module(name: str, file: str | None) -> ModuleType:
    """The module from its file, without its package: under its own name, so that its classes can be pickled."""
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == file:
        return sys.modules[name]  # a resident child keeps what it has imported
    if file is None or not Path(file).is_file():
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _die_with_parent() -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _limit(memory: int) -> None:
    """No core files, a lower priority than the event loop's, the first to go when the machine is short of memory, and a memory limit."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500")
        start = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (start + memory, start + memory))


if __name__ == "__main__":
    main()
