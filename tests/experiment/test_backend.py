"""What a process computes with: named the same by the same machine, and differently by another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from staffa.experiment.backend import backend, backend_name, flags, processor

WORDS = st.lists(st.from_regex(r"--xla_[a-z]{1,8}=(true|false)", fullmatch=True), unique=True)


def test_a_backend_has_a_name_of_its_own() -> None:
    facts = backend()
    assert facts == backend() and len(backend_name(facts)) == 12
    assert all(facts[name] for name in ("device", "processor", "jax", "jaxlib", "numpy", "python"))
    assert facts["processor"] == processor()
    names = {backend_name({**facts, name: "other"}) for name in facts}
    assert len(names) == len(facts) and backend_name(facts) not in names


@given(WORDS, st.randoms())
def test_flags_are_told_apart_but_not_by_their_order(words: list[str], chance: object) -> None:
    mixed = [*words]
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    assert flags({"XLA_FLAGS": " ".join(mixed)}) == flags({"XLA_FLAGS": "  ".join(words)})
    assert flags({"XLA_FLAGS": " ".join([*words, "--xla_one_more=1"])}) != flags({"XLA_FLAGS": " ".join(words)})


def test_settings_that_change_the_code_count_and_others_do_not() -> None:
    assert flags({"NPROC": "1"}) != flags({"NPROC": "2"}) != flags({})
    assert flags({"JAX_COMPILATION_CACHE_DIR": "/somewhere"}) == flags({}) == ""
