"""What every family takes for granted of its plug-ins, asked of one."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from staffa import cells
from staffa.ambient import Registry
from staffa.campaign.runtime import runtime
from staffa.errors import PluginError
from staffa.experiment import plugins
from staffa.experiment.encoded import told
from staffa.experiment.encoding import Encoding
from staffa.testing.experiments import check_experiment
from staffa.testing.findings import Finding, NotConforming, judged, words_of

Values = Mapping[str, Any]


def check_family(family: str, factory: Any, **given: Any) -> tuple[Finding, ...]:
    """Ask a plug-in for what its family takes for granted.

    Arguments:
    - `factory`: what the entry point names.
    - `given`: what the family's own suite needs (`SUITES`): for `experiments` and `samplers` the arguments
      of `check_experiment`, for `encodings` some `values` that may stand in one output, for `clusters` `workspace`,
      `machine` and `environment`, for `strategies` options, and a `domain` in words where not every one will do.
      Without them only what holds for every plug-in is asked, and for `renderers`, `commands` and `strategies` all.

    Raises `NotConforming`.
    """
    wrong = plugins.family(family).fits(factory)
    name = getattr(factory, "__qualname__", repr(factory))
    findings = [Finding("fits its family", not wrong, f"{name} {wrong}"), _importable(family, factory)]
    if not wrong and family in SUITES:
        findings += SUITES[family](factory, given)
    return judged(f"{family}: {name}", findings)


def _importable(family: str, factory: Any) -> Finding:
    """Entry points are `module:attribute`, and other processes import them by that."""
    what = "other processes can import it"
    module, name = getattr(factory, "__module__", None), getattr(factory, "__qualname__", None)
    if module is None or name is None or (not inspect.isroutine(factory) and not isinstance(factory, type)):
        return Finding(what, True)  # an object; its entry point names the variable
    if "<locals>" in name or module == "__main__":
        return Finding(what, False, f"{name} is defined in {module}, inside something else")
    try:
        with runtime(plugins=Registry().register(family, "asked", factory)):
            plugins.exported()
    except PluginError as error:
        return Finding(what, False, error.message)
    return Finding(what, True)


def _experiments(factory: Any, given: Values) -> list[Finding]:
    if not given:
        return []
    try:
        return list(check_experiment(factory, **given))
    except NotConforming as error:
        return list(error.findings)


def _renderers(factory: Any, given: Values) -> list[Finding]:
    columns, rows = ("name", "seconds"), [("sample", 1.5), ("write | commit", None)]
    try:
        with runtime(plugins=Registry().register("renderers", "asked", factory)):
            from staffa.views.rendering import rendered

            text, again = (rendered("asked", columns, rows) for _ in range(2))
    except PluginError as error:
        return [Finding("renders a table", False, error.message)]
    missing = [word for word in ("sample", "1.5") if word not in text]
    return [
        Finding("renders a table", not missing, f"{missing} does not stand in what it returns"),
        Finding("renders the same twice", text == again, "two calls give different text"),
        Finding("renders an empty table", _renders(factory, columns), "it raises, or returns no text"),
    ]


def _renders(factory: Any, columns: Sequence[str]) -> bool:
    try:
        return isinstance(factory(columns, []), str)
    except Exception:
        return False


def _commands(factory: Any, given: Values) -> list[Finding]:
    from staffa.commands import help_of

    try:
        text = help_of(factory)
    except Exception as error:
        return [Finding("has a help page", False, words_of(error))]
    return [Finding("has a help page", "Usage" in text, "it says nothing")]


def _clusters(factory: Any, given: Values) -> list[Finding]:
    if not given:
        return []
    from staffa.execution.extension import plugin_pool

    workspace, machine, environment = (given[name] for name in ("workspace", "machine", "environment"))
    name, value = "STAFFA_ASKED", str(os.getpid())
    try:
        with (
            runtime(plugins=Registry().register("clusters", machine.kind, factory)),
            plugin_pool(workspace, machine, {**environment, name: value}) as pool,
        ):
            pool.client.wait_for_workers(1, timeout=60)
            heard = pool.client.submit(os.getenv, name, pure=False).result(timeout=60)
            members = pool.members()
    except Exception as error:
        return [Finding("brings workers", False, words_of(error))]
    return [
        Finding("brings workers", bool(members), "nobody came within a minute"),
        Finding("workers have the environment", heard == value, f"{name} is {heard!r} there"),
    ]


def _encodings(factory: Any, given: Values) -> list[Finding]:
    values = list(given.get("values", ()))
    findings = [Finding("leaves values of others alone", *_left_alone(factory))]
    if not values:
        return findings
    try:
        found = [factory.of(value) for value in values]
        findings.append(Finding("recognises its values", None not in found, f"of() is None for one of {values!r}"))
        own = factory.of(values[0])
        told("asked", own)
        fits = [own.misfit(value) for value in values]
        findings.append(Finding("values stand beside one another", not any(fits), "; ".join(filter(None, fits))))
        back = _stored(own, [*values, None])
    except Exception as error:
        return [*findings, Finding("values come back", False, words_of(error))]
    same = own.column(back).equals(own.column([*values, None]))
    kinds = [type(one) for one in back] == [type(one) for one in (*values, None)]
    twice = own.cell(values)[()] == own.cell(list(values))[()]
    return [
        *findings,
        Finding("values come back", same and kinds, f"{back[:-1]!r} came back for {values!r}"),
        Finding("writes the same twice", twice, "two cells of the same values differ"),
    ]


def _left_alone(factory: Any) -> tuple[bool, str]:
    for value in (1.5, "text", ["a", {}], object(), b""):
        try:
            if factory.of(value) is not None and factory.automatic:
                return False, f"of({value!r}) is not None"
        except Exception as error:
            return False, f"of({value!r}) raises {words_of(error)}"
    return True, ""


def _stored(own: Encoding, values: Sequence[Any]) -> list[Any]:
    """Values as they come back from a hot store's cell by way of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = cells.opened(own.cell(values).reshape(1), own.type, len(values))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "asked.parquet")
        pq.write_table(pa.table({"value": column}), path)
        read = pq.read_table(path, schema=pa.schema([pa.field("value", own.type)]))["value"].combine_chunks()
    return list(own.array(read))


def _strategies(factory: Any, given: Values) -> list[Finding]:
    """Asked of a domain with every kind of axis; `given` are its options, and a `domain` where it takes no other."""
    import numpy as np

    from staffa.campaign.domain import Domain
    from staffa.search.strategies import Told

    words = {
        "x": [0.01, 1.0, "log"],
        "n": [1, 32, "int"],
        "kind": {"choice": ["a", "b", "c"]},
        "g": {"grid": [1, 2, 4]},
    }
    domain = Domain.read(given.get("domain", words))
    options = {name: value for name, value in given.items() if name != "domain"}
    generator = np.random.default_rng(0)
    points, scores = domain.snapped(generator.random((90, domain.dimension))), generator.random((90, 1))
    scores[::7] = np.inf
    told = Told(points, scores)
    try:
        one, other, another = (factory(domain=domain, budget=100, seed=seed, **options) for seed in (1, 1, 2))
        begun = one.suggest(0, 4, Told.nothing(domain.dimension))
        together, differs = one.suggest(90, 3, told), another.suggest(90, 3, told)
        other.suggest(40, 1, told.until(30))
        alone = np.concatenate([other.suggest(trial, 1, told) for trial in (90, 91, 92)])
        useless = one.suggest(90, 2, Told(points, np.full((90, 1), np.inf), version=1))
    except Exception as error:
        return [Finding("suggests points", False, words_of(error))]
    shapes = [np.shape(found) for found in (begun, together, useless)]
    expected = [(count, domain.dimension) for count in (4, 3, 2)]
    inside = all(((found >= 0) & (found <= 1)).all() for found in (begun, together, useless))
    return [
        Finding("suggests points", shapes == expected, f"of shapes {shapes}, not {expected}"),
        Finding("stays in the unit cube", inside, "a coordinate is NaN, below 0 or above 1"),
        Finding("is a function", np.array_equal(together, alone), "three at once are not the three one after another"),
        Finding("heeds the seed", not np.array_equal(together, differs), "another seed gives the same points"),
    ]


SUITES: Mapping[str, Callable[[Any, Values], list[Finding]]] = MappingProxyType(
    {
        "experiments": _experiments,
        "samplers": _experiments,
        "renderers": _renderers,
        "commands": _commands,
        "encodings": _encodings,
        "clusters": _clusters,
        "strategies": _strategies,
    }
)
"""What is asked of a family besides what every plug-in is asked: a line each."""
