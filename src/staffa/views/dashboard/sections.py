"""The page's texts, tables and bars: pure functions from a picture of a run to HTML.

All numbers come from `staffa.views.readings` or stand in the picture as they are; `data-figure` names the
figure of `staffa status --json` that an element shows. Colour never speaks alone: whatever it says
stands beside it in words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from staffa.storage.states import State
from staffa.views.lagging import lagging_lines
from staffa.views.overview import classes
from staffa.views.readings import HEALTHY, flagged, moment, number, percent, pool, pools, readings, size, span, speed
from staffa.views.sheet import one_line
from staffa.views.verdict import BAD, GOOD, LOOK, Verdict

Facts = Mapping[str, Any]

SHOWN = 24
"""Groups that have a row of their own; the others are counted, and stand in the chart."""
ROWS = 512
"""Workers that have a row."""
MESSAGE = 240
"""Longest message, in characters."""
SIGNS = {GOOD: "✓", LOOK: "!", BAD: "✕"}
MEANINGS = {GOOD: "all is well", LOOK: "worth a look", BAD: "needs you"}


def head(snapshot: Facts, others: Iterable[Facts] = ()) -> str:
    """Whose page this is, and the way to others that share the scheduler."""
    run = snapshot["run"]
    known = {
        "run": run.get("run_id"),
        "driver": f"{run['host']}:{run['pid']}" if run.get("host") else None,
        "since": moment(run["at"]) if run.get("at") else None,
        "folder": snapshot["root"],
    }
    said = "".join(f"<div><dt>{name}</dt><dd>{escape(str(text))}</dd></div>" for name, text in known.items() if text)
    links = ", ".join(f'<a href="?run={escape(one["campaign"], True)}">{escape(one["campaign"])}</a>' for one in others)
    also = f"<p>Also here: {links}</p>" if links else ""
    return f'<h1>{escape(snapshot["campaign"])}</h1><dl class="head">{said}</dl>{also}'


def headline(found: Verdict) -> str:
    """Whether all is well, in one line."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
    return (
        f'<div class="verdict {found.level}"><span class="sign" aria-hidden="true">{SIGNS[found.level]}'
        f'</span><div><p class="words"><span class="aloud">{MEANINGS[found.level]}: </span>{escape(found.words)}</p>'
        f"{f'<ul>{notes}</ul>' if notes else ''}</div></div>"
    )


def tiles(snapshot: Facts) -> str:
    """The numbers people look for first."""
    figures = snapshot["figures"]
    trials, settled = int(figures.get("trials", 0)), int(figures.get("settled", 0))
    said = readings(figures)
    done = share(snapshot)
    bar = (
        f'<div class="meter" role="progressbar" aria-label="settled trials" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{done}"><span style="width:{done}%"></span></div>'
    )
    flaws = sum(flagged(figures.get("outcomes") or {}).values())
    cells = [
        _tile("settled trials", f"{done} %", f"{_number('settled', settled)} of {_number('trials', trials)}", bar),
        _tile("trials/s", speed(figures["rate"]) if "rate" in said else "-", _written(snapshot)),
        _tile("ETA", said.get("eta", "").removeprefix("ETA ") or "-", _since(snapshot)),
        _tile("flagged", f"{flaws:,}", _outcomes(figures), level="look" if flaws else ""),
        _tile("workers", _number("workers", int(figures.get("workers", 0))), _batches(figures)),
        _tile("parts sealed", _number("sealed", int(figures.get("sealed", 0))), _parts(figures)),
    ]
    return f'<div class="tiles">{"".join(cells)}</div>'


def share(snapshot: Facts) -> int:
    """Percent of the trials that are settled; none before there is a first count."""
    figures = snapshot["figures"]
    return percent(int(figures["settled"]), int(figures["trials"])) if figures.get("trials") else 0


def _tile(name: str, value: str, more: str, extra: str = "", level: str = "") -> str:
    return f'<div class="tile {level}"><p class="name">{name}</p><p class="value">{value}</p>{extra}<p>{more}</p></div>'


def _number(name: str, count: int) -> str:
    return f'<span data-figure="{name}">{count:,}</span>'


def _written(snapshot: Facts) -> str:
    return f"{size(snapshot['written'])} written" if snapshot["written"] else ""


def _since(snapshot: Facts) -> str:
    began = snapshot["run"].get("at")
    return f"running for {span(max(snapshot['at'] - began, 0.0))}" if began else ""


def _outcomes(figures: Facts) -> str:
    counts = dict(sorted((figures.get("outcomes") or {}).items(), key=lambda one: one[0] != HEALTHY))
    return ", ".join(f"{word} {_number(f'outcomes.{word}', count)}" for word, count in counts.items() if count)


def _batches(figures: Facts) -> str:
    names = {"flying": "in flight", "waiting": "waiting", "retrying": "to be retried"}
    said = [f"{_number(name, figures[name])} {text}" for name, text in names.items() if figures.get(name)]
    return f"batches: {', '.join(said)}" if said else ""


def _parts(figures: Facts) -> str:
    return f"of {_number('parts', int(figures.get('parts', 0)))}"


def states(snapshot: Facts) -> str:
    """Trials by state: a bar that fills, and the same in numbers."""
    found = snapshot["figures"].get("states") or {}
    trials = max(sum(found.values()), 1)
    order = [state for state in STATES if found.get(state)]
    pieces = "".join(
        f'<span class="s-{state}" style="flex-grow:{found[state] / trials:.6f}"></span>' for state in order
    )
    legend = "".join(
        f'<li><span class="dot s-{state}" aria-hidden="true"></span>{state.replace("_", " ")} '
        f"<b>{_number(f'states.{state}', found[state])}</b></li>"
        for state in order
    )
    said = ", ".join(f"{state.replace('_', ' ')} {found[state]:,}" for state in order) or "none yet"
    bar = f'<div class="bar" role="img" aria-label="Trials by state: {said}">{pieces}</div>'
    return f'{bar}<ul class="legend">{legend}</ul>'


STATES = (
    State.ARCHIVED,
    State.PRUNED,
    State.DONE,
    State.ISSUED,
    State.FAILED,
    State.QUARANTINED,
    State.CANCELLED,
    State.MISSING_INPUT,
    State.PLANNED,
)
"""From finished to not begun, as the bar fills."""


def failures(snapshot: Facts) -> str:
    """Failures by class, with their latest messages."""
    found = classes(snapshot)
    lost = sum(snapshot["lost"].values())
    more = f"<p>{number(lost, 'batch')} lost with a worker, and issued again</p>" if lost else ""
    if not found:
        return f'<p class="none">No trial has failed.</p>{more}'
    rows = [
        (
            f'<th scope="row">{escape(one["outcome"])}</th>',
            f'<td class="n">{one["trials"]:,}</td>',
            f'<td class="n">{one["tries"]:,}</td>',
            f'<td class="long">{_messages(one["messages"])}</td>',
        )
        for one in found
    ]
    columns = (("class", ""), ("trials", "n"), ("tries", "n"), ("latest messages", "long"))
    return _table("Failures by class", columns, rows) + more


def _messages(messages: Sequence[Facts]) -> str:
    if not messages:
        return "-"
    return "<ul>" + "".join(f"<li>{_message(one)}</li>" for one in messages) + "</ul>"


def _message(one: Facts) -> str:
    times = f" ({one['count']:,} times)" if one["count"] > 1 else ""
    where = f" on {escape(one['node'])}" if one["node"] else ""
    text = escape(one_line(one["text"] or "without a message", MESSAGE))
    return f"{text}{times} <small>trial {escape(one['trial'][:8])}{where}, {moment(one['at'])[11:]}</small>"


def lagging(snapshot: Facts) -> str:
    """Slow and stuck batches, the worst first."""
    lines = lagging_lines(snapshot["figures"])
    if not lines:
        return '<p class="none">No batch is slow or stuck.</p>'
    rows = [
        (f'<th scope="row">{escape(name)}</th>', f'<td class="long">{escape(text)}</td>')
        for name, text in lines.items()
    ]
    return _table("Slow and stuck batches", (("batch", ""), ("where and since when", "long")), rows)


def groups(snapshot: Facts) -> str:
    """Progress of each group; of many those that matter now."""
    found = snapshot["figures"].get("groups") or []
    if not found:
        return '<p class="none">Not counted yet.</p>'
    shown = sorted(found, key=_urgency)[:SHOWN] if len(found) > SHOWN else found
    columns = (("group", ""), ("trials", "wide"), ("settled", "n"), ("of", "n"), ("flagged", "n"), ("in flight", "n"))
    whole = sum(one["settled"] >= one["trials"] for one in found)
    rest = len(found) - len(shown)
    more = f"<p>… and {number(rest, 'more group')}. Of all {len(found):,}, {whole:,} are complete.</p>" if rest else ""
    return _table("Progress of groups", columns, [_group(one) for one in shown]) + more


def _urgency(one: Facts) -> tuple[bool, bool, int]:
    """Groups with failures first, then those in flight, then those to be done, in the order of the plan."""
    failed = sum(flagged(one["outcomes"]).values())
    return not failed, not one["flying"], one["settled"] >= one["trials"]


def _group(one: Facts) -> tuple[str, ...]:
    trials, flaws = max(one["trials"], 1), sum(flagged(one["outcomes"]).values())
    good = one["settled"] - flaws
    pieces = (("s-done", good), ("s-failed", flaws), ("s-issued", min(one["flying"], trials - one["settled"])))
    bar = "".join(f'<span class="{kind}" style="width:{100 * count / trials:.2f}%"></span>' for kind, count in pieces)
    done = percent(one["settled"], one["trials"])
    return (
        f'<th scope="row"><b>{escape(one["group"])}</b> <small>{escape(one["of"])}</small></th>',
        f'<td class="wide"><div class="bar thin" role="img" aria-label="{done} % settled">{bar}</div></td>',
        f'<td class="n">{one["settled"]:,}</td>',
        f'<td class="n">{one["trials"]:,}</td>',
        f'<td class="n">{flaws:,}</td>',
        f'<td class="n">{one["flying"]:,}</td>',
    )


def workers(snapshot: Facts, live: Mapping[str, tuple[int, int]]) -> str:
    """Every worker: where it is, what it has in memory, what it does with its time.

    Arguments:
    - `live`: bytes each has in memory now, and may have, by address, as far as the scheduler knows.
    """
    found = sorted(snapshot["workers"], key=lambda one: (str(one["pool"]), str(one["node"]), _natural(one["name"])))
    said = "".join(f"<li>pool {escape(name)}: {escape(pool(facts))}</li>" for name, facts in _pools(snapshot))
    shown = f"<ul>{said}</ul>" if said else ""
    if not found:
        return f'{shown}<p class="none">No worker is there.</p>'
    columns = (
        ("worker", ""), ("time on the device", "wide"), ("sampling", "n"), ("idle", "n"), ("writing", "n"),
        ("batches", "n"), ("memory", "n"), ("time left", "n"), ("node", ""), ("device", ""),
    )  # fmt: skip
    rows = [_worker(one, live.get(one["address"]), snapshot["at"]) for one in found[:ROWS]]
    rest = len(found) - len(rows)
    more = f"<p>… and {number(rest, 'more worker')}</p>" if rest else ""
    return shown + _table("Workers", columns, rows) + more


def _pools(snapshot: Facts) -> Iterator[tuple[str, Facts]]:
    yield from pools(snapshot["figures"]).items()


def _worker(one: Facts, live: tuple[int, int] | None, now: float) -> tuple[str, ...]:
    sampling, compiling, idle, writing = (_share(one, name) for name in ("sampling", "compiling", "idle", "writing"))
    kinds = (("s-done", sampling), ("s-issued", compiling))
    bar = "".join(f'<span class="{kind}" style="width:{share:.1f}%"></span>' for kind, share in kinds)
    said = f"sampling {sampling:.0f} %, compiling {compiling:.0f} %, idle {idle:.0f} %"
    return (
        f'<th scope="row">{escape(str(one["name"]))}</th>',
        f'<td class="wide"><div class="bar thin" role="img" aria-label="{said}">{bar}</div></td>',
        f'<td class="n">{sampling:.0f} %</td>',
        f'<td class="n">{idle:.0f} %</td>',
        f'<td class="n">{writing:.0f} %</td>',
        f'<td class="n">{one["batches"]:,}</td>',
        f'<td class="n">{_memory(one, live)}</td>',
        f'<td class="n">{span(max(one["ends"] - now, 0.0)) if one["ends"] else "-"}</td>',
        f"<td>{escape(str(one['node'] or one['host']))}</td>",
        f"<td>{escape(_device(one))}</td>",
    )


def _share(one: Facts, name: str) -> float:
    return float(min(100 * one[name] / one["held"], 999.0)) if one["held"] else 0.0


def _device(one: Facts) -> str:
    """`GPU 0, NVIDIA A100`; `cpu`."""
    number = f"GPU {one['device']}" if one.get("device") else ""
    return ", ".join(text for text in (number, str(one.get("kind") or "")) if text) or "-"


def _memory(one: Facts, live: tuple[int, int] | None) -> str:
    """Main memory now, and that of the device at the last receipt."""
    used, limit = live or (one.get("rss") or 0, 0)
    said = [f"{size(used)}{f' of {size(limit)}' if limit else ''}"] if used else []
    if one.get("device_limit") and isinstance(one.get("device_bytes"), int):
        said.append(f"GPU {size(one['device_bytes'])} of {size(one['device_limit'])}")
    return "<br>".join(said) or "-"


def _natural(name: Any) -> tuple[int, str]:
    """`9` before `10`."""
    text = str(name)
    return (int(text), "") if text.isdecimal() else (1 << 62, text)


def _table(caption: str, columns: Sequence[tuple[str, str]], rows: Iterable[Iterable[str]]) -> str:
    """A table whose cells are HTML already.

    Arguments:
    - `columns`: name and kind of each: `n` for numbers, `wide` for bars, `long` for texts. The style sheet is told the
      names: where there is no room for columns, each row is a card, and each value stands beside its name.
    """
    heads = "".join(f'<th scope="col" class="{kind}">{name}</th>' for name, kind in columns)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    names = ";".join(f"--c{place}:'{name} '" for place, (name, _) in enumerate(columns, 1))
    inside = f"<caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody>"
    return f'<table style="{names}">{inside}</table>'
