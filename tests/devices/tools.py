"""Stand-ins for hl-smi, nvidia-smi and xpu-smi: executables that answer the questions they are really asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.here import python_script

# Answers only the fields asked for, in their order, and refuses an unknown one, as the vendors' tools do.
_SMI = """
rows, known, query, error, code = json.loads({data!r})
asked = [a.split("=", 1)[1].split(",") for a in sys.argv[1:] if a.startswith(query + "=")]
if len(asked) != 1 or "--format=csv,noheader,nounits" not in sys.argv:
    sys.exit("usage")
for field in asked[0]:
    if field not in known:
        print('Field "' + field + '" is not a valid field to query.')
        sys.exit(2)
for row in rows:
    print(row if isinstance(row, str) else ", ".join(str(row.get(field, "N/A")) for field in asked[0]))
print(error, file=sys.stderr)
sys.exit(code)
"""

_XPU = """
answer, code = json.loads({data!r})
if sys.argv[1:] != ["discovery", "-j"]:
    sys.exit("usage")
mask = os.environ.get("ZE_AFFINITY_MASK")
if mask and isinstance(answer, dict):
    # Level Zero shows the tool no more than the mask does, and numbers it from 0.
    answer = {{"device_list": [answer["device_list"][int(n)] for n in mask.split(",")]}}
print(json.dumps(answer) if not isinstance(answer, str) else answer)
sys.exit(code)
"""

GAUDI_FIELDS = ["timestamp", "name", "bus_id", "driver_version", "module_id", "index", "serial", "uuid"]
GAUDI_FIELDS += ["memory.total", "memory.free", "memory.used", "utilization.aip", "temperature.aip", "power.draw"]
GAUDI_FIELDS += ["stats.violation.power", "stats.violation.thermal"]
NVIDIA_FIELDS = ["index", "uuid", "pci.bus_id", "name", "driver_version", "memory.total", "mig.mode.current"]
NVIDIA_FIELDS += ["temperature.gpu", "power.draw", "clocks.sm", "clocks.mem", "utilization.gpu", "memory.used"]
NVIDIA_FIELDS += ["clocks_throttle_reasons.active"]


def executable(directory: Path, name: str, body: str) -> Path:
    path = directory / name
    path.write_text(body, encoding="utf-8")
    path.chmod(0o755)
    return path


def _python(directory: Path, name: str, body: str) -> Path:
    return executable(directory, name, python_script(f"import json, os, sys\n{body}", "-SE"))


def hl_smi(
    directory: Path, rows: list[Any], *, fields: list[str] = GAUDI_FIELDS, error: str = "", code: int = 0
) -> Path:
    data = json.dumps([rows, fields, "--query-aip", error, code])
    return _python(directory, "hl-smi", _SMI.format(data=data))


def nvidia_smi(
    directory: Path, rows: list[Any], *, fields: list[str] = NVIDIA_FIELDS, error: str = "", code: int = 0
) -> Path:
    data = json.dumps([rows, fields, "--query-gpu", error, code])
    return _python(directory, "nvidia-smi", _SMI.format(data=data))


def xpu_smi(directory: Path, answer: Any, *, code: int = 0) -> Path:
    return _python(directory, "xpu-smi", _XPU.format(data=json.dumps([answer, code])))


def hanging(directory: Path, name: str) -> Path:
    """A tool that never answers; its child holds the pipe open. Both pids are written beside it."""
    return executable(
        directory,
        name,
        f"#!/bin/sh\n/bin/sleep 60 &\necho $$ $! > '{directory}/pids.part'\n"
        f"/bin/mv '{directory}/pids.part' '{directory}/pids'\nwait\n",
    )


def gaudi(index: int, module: int, **changes: str) -> dict[str, Any]:
    """A row of an HLS-Gaudi2 as its documentation prints it."""
    return {
        "index": index,
        "module_id": module,
        "name": "HL-225",
        "driver_version": "1.21.0-ca59b5a",
        "memory.total": 98304,
        "memory.used": 768,
        "bus_id": f"0000:{0x19 + index:02x}:00.0",
        "uuid": f"01P0-HL2080A0-15-TNBS71-01-08-{index:02d}",
        "utilization.aip": 0,
        "temperature.aip": 27,
        "power.draw": 94,
        "stats.violation.power": 0,
        "stats.violation.thermal": 0,
        **changes,
    }


def h100(index: int, **changes: str) -> dict[str, Any]:
    return {
        "index": index,
        "uuid": f"GPU-{index:08x}-d72c-4106-c12f-20bd9faed9f6",
        "pci.bus_id": f"00000000:{0x1B + index:02X}:00.0",
        "name": "NVIDIA H100 80GB HBM3",
        "driver_version": "550.54.15",
        "memory.total": 81559,
        "mig.mode.current": "Disabled",
        "temperature.gpu": 31,
        "power.draw": "70.52",
        "clocks.sm": 1980,
        "clocks.mem": 2619,
        "utilization.gpu": 0,
        "memory.used": 4,
        "clocks_throttle_reasons.active": "0x0000000000000004",
        **changes,
    }


def max_1550(index: int, **changes: Any) -> dict[str, Any]:
    return {
        "device_function_type": "physical",
        "device_id": index,
        "device_name": "Intel(R) Data Center GPU Max 1550",
        "device_type": "GPU",
        "drm_device": f"/dev/dri/card{index}",
        "pci_bdf_address": f"0000:{0x4B + index:02X}:00.0",
        "pci_device_id": "0xbd5",
        "uuid": f"00000000-0000-00{0x4B + index:02x}-0000-000000bd5808",
        "vendor_name": "Intel(R) Corporation",
        **changes,
    }
