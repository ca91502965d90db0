"""Defaults for the calls in a block: `with staffa.runtime(cluster="local", x64=True): …`.

What a block says counts for every campaign file that is read within it, just below what the call
itself says. It is checked where it is written. Blocks nest; threads and tasks have their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from staffa import ambient
from staffa.ambient import Activation, Registry, Runtime
from staffa.campaign import config
from staffa.campaign.complaints import addresses, check_piece
from staffa.campaign.layers import Origin, from_python, values
from staffa.campaign.model import CampaignConfig
from staffa.errors import ConfigError, near

ORIGIN = Origin("runtime")


class Runtimes:
    """`staffa.runtime(…)` makes a block, `staffa.runtime.current()` tells what counts here."""

    def __call__(
        self,
        *,
        cluster: str | Path | None = None,
        profile: str | None = None,
        workflow: str | Path | None = None,
        set: Iterable[str] = (),
        plugins: Registry | None = None,
        **fields: Any,
    ) -> Activation:
        """A block, to be entered by `with`; it may be kept and entered again.

        Arguments:
        - `cluster`, `profile`, `workflow`, `set`: as for `staffa.load`.
        - `plugins`: registered by hand for the block.
        - `fields`: fields of a campaign: by their whole name (`execution__x64`, or `execution={"x64": …}`),
          or by the last word of it (`x64`) where only one field has that.

        Raises `ConfigError`, with the near names, for what no campaign could say.
        """
        for name, value in (("cluster", cluster), ("profile", profile), ("workflow", workflow)):
            if value is not None and not isinstance(value, str | Path):
                raise ConfigError(f"runtime({name}={value!r}) is not a name", f"for fields of a section: {name}__…=…")
        said = [*_checked(set), *_fields(fields)]
        place = None if workflow is None else Path(workflow)
        return Activation(Runtime(cluster, profile, place, tuple(said), plugins or Registry()))

    def current(self) -> Runtime:
        """What counts at this place, frozen."""
        return ambient.current()


def read(
    path: str | Path,
    *,
    cluster: str | Path | None = None,
    profile: str | None = None,
    workflow: str | Path | None = None,
    overrides: Iterable[str] = (),
) -> config.Declaration:
    """`config.load` with what the block around says where the call says nothing."""
    return config.load(path, **defaults(cluster, profile, workflow), overrides=overrides)


def defaults(cluster: str | Path | None, profile: str | None, workflow: str | Path | None) -> dict[str, Any]:
    """Arguments of `config.load`, those that are None taken from the block around."""
    here = ambient.current()
    return {
        "cluster": cluster if cluster is not None else here.cluster,
        "profile": profile if profile is not None else here.profile,
        "workflow": workflow if workflow is not None else here.workflow,
        "ambient": here.overrides,
    }


def _fields(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        path = _whole(name)
        node = from_python({path[-1]: value}, ORIGIN)
        assert isinstance(node.content, dict)
        plain = values(node.content)[path[-1]]
        for field, leaf in _leaves(path, plain):
            yield from _checked([f"{'.'.join(field)}={json.dumps(leaf)}"])


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Mappings say their leaves only, so that blocks merge key by key."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves((*path, key), item)
    else:
        yield path, value


def _whole(name: str) -> tuple[str, ...]:
    """The path of a field that is named by itself or in short."""
    if "__" in name or name in CampaignConfig.model_fields:
        return tuple(name.split("__"))
    known = [address for address in addresses(CampaignConfig) if "<name>" not in address]
    homes = [address for address in known if address.rpartition(".")[2] == name]
    if len(homes) == 1:
        return tuple(homes[0].split("."))
    if homes:
        raise ConfigError(f"runtime({name}=…) may be {' or '.join(homes)}", f"write {homes[0].replace('.', '__')}=…")
    short = {address.rpartition(".")[2] for address in known} | {"cluster", "profile", "workflow", "set", "plugins"}
    raise ConfigError(f"runtime({name}=…): no campaign has such a field", near(name, short))


def _checked(overrides: Iterable[str]) -> Iterator[str]:
    """The same overrides, after refusing what no campaign could take."""
    for override in overrides:
        check_piece(config.override_tier(override, ORIGIN.tier), CampaignConfig, ORIGIN)
        yield override


runtime = Runtimes()
