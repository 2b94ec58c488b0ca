"""What tox.ini cannot write down: the locks' address as a URI. tox takes a file of this name for a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tox.plugin import impl

if TYPE_CHECKING:
    from tox.config.sets import EnvConfigSet
    from tox.session.state import State


@impl
def tox_add_env_config(env_conf: EnvConfigSet, state: State) -> None:
    """`{locks_uri}` in tox.ini: the folder `constraints/` as a percent-encoded file URI.

    pip splits PIP_CONSTRAINT at spaces, so a plain path below a folder such as `my work/` would name two files.
    """
    uri = (state.conf.core["tox_root"] / "constraints").resolve().as_uri()
    env_conf.add_constant("locks_uri", "the folder of version locks, as a URI", uri)
