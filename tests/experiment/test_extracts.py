"""What of an experiment's outputs stands in a trial's row: the field's own, and what a class asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import staffa
from staffa.errors import PluginError
from staffa.experiment.extracts import STANDARD, extracts_of
from staffa.experiment.protocol import Extract, Output

FITNESS = Output("fitness", "float32", (8,), ("particle",))
SEQUENCE = Output("sequence", "int8", (8, 20), ("particle", "site"))
LOG_Z = Output("log_z", "float32", (), ())
MASS = Output("galaxies.mass", "float32", (5,), ("galaxy",), 0, "galaxies", "count")


class Plain(staffa.Experiment):
    pass


def declaring(summaries: Mapping[str, Any]) -> staffa.Experiment:
    return type("Own", (Plain,), {"summaries": summaries})()


def test_names_of_the_field_are_known_without_asking() -> None:
    assert extracts_of(Plain(), (LOG_Z,)) == (Extract("log_z.last", "last", "log_z"),)
    assert set(extracts_of(Plain(), (FITNESS, SEQUENCE))) == {
        Extract("best.fitness", "max", "fitness"),
        Extract("best.sequence", "argmax", "sequence", "fitness"),
    }
    everything = (FITNESS, SEQUENCE, LOG_Z, Output("divergent", "bool", (), ()))
    assert [one.name for one in extracts_of(Plain(), everything)] == list(STANDARD)
    assert extracts_of(Plain(), (MASS,)) == ()


def test_a_standard_name_that_does_not_fit_is_left_out() -> None:
    """A fitness for each component is not one for each sequence."""
    components = Output("fitness", "float32", (3,), ("component",))
    names = [one.name for one in extracts_of(Plain(), (components, SEQUENCE))]
    assert names == ["best.fitness"]
    chained = Output("fitness", "float32", (8,), ("particle",), chains=2)
    assert [one.name for one in extracts_of(Plain(), (chained, SEQUENCE))] == ["best.fitness"]


def test_of_a_population_that_is_summed_up_the_best_of_each_step_counts() -> None:
    summed = (Output("max_fitness", "float32", (), ()), Output("best_sequence", "int32", (20,), ("site",)))
    best = (
        Extract("best.fitness", "max", "max_fitness"),
        Extract("best.sequence", "argmax", "best_sequence", "max_fitness"),
    )
    assert extracts_of(Plain(), summed) == best
    assert {one.output for one in extracts_of(Plain(), (*summed, FITNESS, SEQUENCE))} == {"fitness", "sequence"}


def test_an_experiment_adds_and_redefines() -> None:
    own = declaring({"first": ("first", "log_z"), "best.fitness": ("min", "fitness")})
    found = {one.name: one for one in extracts_of(own, (FITNESS, LOG_Z))}
    assert found["first"] == Extract("first", "first", "log_z")
    assert found["best.fitness"] == Extract("best.fitness", "min", "fitness") and "log_z.last" in found


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("end", ("final", "log_z"), "this is not"),
        ("end", "log_z", "this is not"),
        ("end", ("last",), "this is not"),
        ("end", ("last", "log_zz"), "no output 'log_zz'"),
        ("end", ("last", "galaxies.mass"), "ragged"),
        ("end", ("argmax", "fitness"), "takes two outputs"),
        ("end", ("max", "fitness", "sequence"), "takes one output"),
        ("end", ("argmax", "sequence", "fitness"), r"'sequence' \[8, 20\] do not begin those of 'fitness' \[8\]"),
        ("trial", ("last", "log_z"), "cannot be called 'trial'"),
        ("log_z.mean", ("last", "log_z"), "cannot be called"),
        ("log z", ("last", "log_z"), "cannot be called"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name: str, words: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message) as refused:
        extracts_of(declaring({name: words}), (FITNESS, SEQUENCE, LOG_Z, MASS))
    assert f"summaries[{name!r}] = {words!r}" in refused.value.message


def test_a_near_name_helps() -> None:
    with pytest.raises(PluginError) as refused:
        extracts_of(declaring({"end": ("last", "log_Z")}), (LOG_Z,))
    assert "log_z" in refused.value.hint
