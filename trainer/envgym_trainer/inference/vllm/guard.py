"""Run a command and end its process group with it, and when standard input is closed.

    python guard.py COMMAND ...

The parent holds the other end of standard input, so the command ends with the parent even if that
is killed. Needs a process group of its own. Standard library only: it runs as a file.
"""

import os
import signal
import subprocess
import sys
import threading
import time

GRACE_SECONDS = 10.0


def main(command: list[str]) -> None:
    # A handler, not SIG_IGN, which the command would inherit.
    signal.signal(signal.SIGTERM, lambda *_: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    over = threading.Event()
    threading.Thread(target=_wait_for_child, args=(child, over), daemon=True).start()
    threading.Thread(target=_wait_for_end_of_input, args=(over,), daemon=True).start()
    over.wait()
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(0, signal.SIGKILL)  # this process too


def _wait_for_child(child: "subprocess.Popen[bytes]", over: threading.Event) -> None:
    child.wait()
    over.set()


def _wait_for_end_of_input(over: threading.Event) -> None:
    while os.read(0, 1024):
        pass
    over.set()


if __name__ == "__main__":
    main(sys.argv[1:])
