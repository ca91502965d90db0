"""Workers of a kind that a plug-in knows how to start (family `clusters`).

A plug-in is a factory, called with the workspace, section `cluster` and the environment workers must
be started with; what it returns is entered by `with` for as long as the driver lives. It yields a Dask
client, a Dask cluster object, or a `Pool` of its own, which then knows why workers leave and how to scale.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from distributed import Client

from staffa.campaign.machine import ClusterConfig
from staffa.errors import ClusterError, PluginError, StaffaError
from staffa.execution.cluster import given_pool
from staffa.execution.pool import Pool
from staffa.experiment import plugins
from staffa.storage.workspace import Workspace


@contextlib.contextmanager
def plugin_pool(workspace: Workspace, machine: ClusterConfig, environment: Mapping[str, str]) -> Iterator[Pool]:
    """The workers of a plug-in's kind.

    Raises `PluginError` where the plug-in is not there or yields something else, `ClusterError` for
    whatever it raises itself.
    """
    factory = plugins.load("clusters", machine.kind, "cluster.kind")
    with contextlib.ExitStack() as stack:
        try:
            given = stack.enter_context(factory(workspace, machine, dict(environment)))
        except (StaffaError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise ClusterError(
                f"cluster.kind: {machine.kind}: its workers did not start: {type(error).__name__}: {error}",
                f"staffa resume {workspace.root}",
            ) from error
        yield given if isinstance(given, Pool) else stack.enter_context(given_pool(_client(given, machine, stack)))


def _client(given: Any, machine: ClusterConfig, stack: contextlib.ExitStack) -> Client:
    if isinstance(given, Client):
        return given
    if hasattr(given, "get_client"):
        return stack.enter_context(contextlib.closing(given.get_client()))
    raise PluginError(
        f"cluster.kind: plug-in {machine.kind!r} yields {type(given).__name__}",
        "yield a distributed.Client, a Dask cluster object or a staffa.execution.pool.Pool",
    )
