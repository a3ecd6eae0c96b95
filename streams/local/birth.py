"""The first thing every process of the stack runs: it ties itself to the supervisor's life, gives up root, and becomes the server.

Run as a script: `python -I -S birth.py PARENT DEATH_SIGNAL UID KEEP_DAC NICE COMMAND…`. A program of its own instead of
`preexec_fn`, which may deadlock in a process with threads. It imports nothing but the standard library.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG, PR_SET_SECUREBITS, PR_CAP_AMBIENT = 1, 28, 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 4
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522


def become(uid: int, *, keep_dac: bool) -> None:
    """Drop root for good; with `keep_dac` the one capability stays that lets files below a 0700 folder be reached."""
    libc = ctypes.CDLL(None, use_errno=True)
    if keep_dac:  # else the change of user takes the capabilities away, and access(2), by which initdb looks for its programs, does without them
        libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    if keep_dac:
        mask = 1 << CAP_DAC_OVERRIDE
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        sets = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)  # effective, permitted, inheritable; twice 32 bits
        if libc.capset(header, sets) or libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0):
            sys.exit("root may not hand on CAP_DAC_OVERRIDE here: move the home folder and the environment out of folders with mode 0700")


def die_with_parent(parent: int, signal: int) -> None:
    """Linux sends the signal when the supervisor ends, however it ends; a change of user would have cleared it, so this comes last."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def main(argv: list[str]) -> None:
    parent, signal, uid, keep_dac, nice, *command = argv
    os.umask(0o077)
    if int(nice):
        os.nice(int(nice))
    if int(uid):
        become(int(uid), keep_dac=keep_dac == "1")
    die_with_parent(int(parent), int(signal))
    try:
        os.execv(command[0], command)  # a full path: after the drop not even the standard library may be readable
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
