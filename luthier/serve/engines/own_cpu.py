"""A CPU for an engine that computes with one thread: it neither wanders nor wakes its other threads elsewhere."""

import os
import socket
import sys
from contextlib import suppress

import psutil

CLAIMS = "luthier-engine"


def keep_cpu(engine: psutil.Process, claims: str = CLAIMS) -> socket.socket | None:
    """Binds the engine's threads to a CPU that no other engine of this machine has; the first CPU stays free for all.

    What is returned is the claim: it ends when it is closed, or with this process. None when no CPU is left.
    """
    if sys.platform != "linux":
        return None
    for cpu in sorted(os.sched_getaffinity(0))[:0:-1]:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0{claims}-cpu-{cpu}")  # of no file: what dies leaves nothing behind
        except OSError:
            claim.close()
            continue
        for thread in engine.threads():
            with suppress(OSError):  # it has ended, or who runs us may not: slower, and no fault
                os.sched_setaffinity(thread.id, {cpu})
        return claim
    return None
