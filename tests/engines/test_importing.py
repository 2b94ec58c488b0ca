"""What an engine imports before it loads anything is on the clock, and the garbage collector does not walk it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from genqual.engines.registry import engines

# Ends the process at the first heavy package that anybody asks for, and says whether the clock ran by then.
CODE = """
import importlib, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "accelerate", "deepspeed"}:
            print(name, "clock" if "genqual.engines.hf.timed_import" in sys.modules else "no clock")
            sys.exit()

sys.meta_path.insert(0, Watch())
importlib.import_module(sys.argv[1])
print("nothing")
"""
LIGHT = {"external", "server"}


@pytest.mark.parametrize("name", sorted(engines()))
def test_torch_is_imported_on_the_clock(name: str) -> None:
    module = engines()[name].implementation.partition(":")[0]
    done = subprocess.run([sys.executable, "-c", CODE, module], check=True, capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == ("nothing" if name in LIGHT else "torch clock")
