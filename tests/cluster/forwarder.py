"""A long cable: two network devices, and what enters one leaves the other later. For kernels without netem; as root.

    python -m tests.cluster.forwarder DEVICE DEVICE MILLISECONDS

It makes both devices (tap, so that every frame is whole and has its checksum), prints "ready", and ends with its
parent's end of standard output.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from typing import Final

_TUNSETIFF: Final = 0x400454CA
_TAP_WITHOUT_HEADER: Final = 0x0002 | 0x1000
_FRAME: Final = 65_536


def device(name: str) -> int:
    """A tap device's file: what is read left the device's host, what is written enters it."""
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP_WITHOUT_HEADER))
    return file


def forward(one: int, other: int, delay_s: float) -> None:
    """For ever. What a full device refuses is lost, as on a cable."""
    waiting: deque[tuple[float, int, bytes]] = deque()
    across = {one: other, other: one}
    while True:
        left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 1.0
        for file in select.select([one, other], [], [], left)[0]:
            try:
                waiting.append((time.monotonic() + delay_s, across[file], os.read(file, _FRAME)))
            except OSError:
                continue  # the device is down
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, file, frame = waiting.popleft()
            try:
                os.write(file, frame)
            except OSError:
                continue
        if os.getppid() == 1:
            return


if __name__ == "__main__":
    devices = [device(name) for name in sys.argv[1:3]]
    print("ready", flush=True)
    forward(devices[0], devices[1], float(sys.argv[3]) / 1000)
