"""Ways to look into or change another process. Each raises an OSError if it is refused."""

import ctypes
import errno
import os

libc = ctypes.CDLL(None, use_errno=True)
ATTACH = 16
DETACH = 17
GET_DESCRIPTOR = 438
OPEN_PROCESS = 434


class Bytes(ctypes.Structure):
    """`struct iovec`"""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def _ptrace(pid: int) -> None:
    if libc.ptrace(ATTACH, pid, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(pid, 0x40000000)  # __WALL
    libc.ptrace(DETACH, pid, None, None)


def _memory(pid: int) -> None:
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        memory.seek(int(maps.readline().partition("-")[0], 16))
        memory.read(16)


def _vm_read(pid: int) -> None:
    place = ctypes.create_string_buffer(16)
    # An equal address is only chance. The permission check comes before the address is used.
    ours = Bytes(ctypes.addressof(place), 16)
    theirs = Bytes(id(libc), 16)
    if (
        libc.process_vm_readv(pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0) < 0
        and ctypes.get_errno() != errno.EFAULT
    ):
        raise OSError(ctypes.get_errno(), "process_vm_readv")


def _descriptors_of(pid: int) -> None:
    os.readlink(f"/proc/{pid}/fd/0")


def _environment(pid: int) -> None:
    with open(f"/proc/{pid}/environ", "rb") as file:
        file.read()


def _take_descriptor(pid: int) -> None:
    handle = libc.syscall(OPEN_PROCESS, pid, 0)
    taken = libc.syscall(GET_DESCRIPTOR, handle, 0, 0) if handle >= 0 else -1
    refused = ctypes.get_errno()
    for descriptor in (handle, taken):
        if descriptor >= 0:
            os.close(descriptor)
    if taken < 0:
        raise OSError(refused, "pidfd_getfd")


WAYS = {
    "ptrace": _ptrace,
    "memory": _memory,
    "vm_read": _vm_read,
    "descriptors": _descriptors_of,
    "environment": _environment,
    "take_descriptor": _take_descriptor,
}
"""Way by name: a function of the process id."""
