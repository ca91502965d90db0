"""What a campaign of mocks shows in its report: `qa: {figures: [{use: "mocks/figures.py:clustering"}]}`.

All is drawn from what the reducers answered, none reads a galaxy. Each figure takes the names of the answers it is of,
and how many of their redshifts it shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.ticker import LogLocator, NullFormatter

from mocks.mass_function import density_above
from mocks.references import Published
from mocks.style import BLUE, INK, MARKERS, MUTED, ORANGE, figure, shades, styled

LEVELS = (0.864, 0.393)
"""Shares of a plane's galaxies that contours enclose: those within two and one sigma of a normal distribution."""


def mass_function(results: Any, counts: str = "halo_counts", box: float | None = None, redshifts: int = 4) -> Any:
    """Halos by mass beside the function they are drawn from.

    Options: `counts`: a `Correlation` of counts.halos; `box`: side of the mocks, by default `experiment.box`.
    """
    found, volume = results.reduced[counts], _box(results, box) ** 3
    middles = axis_of(results, "halo_mass")
    width = middles[1] - middles[0]
    low, high = middles - width / 2, middles + width / 2
    with styled():
        drawn = figure(5.2)
        upper, lower = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        deviations, last = list[Any](), list[float]()
        for place, colour, marker in _chosen(found, redshifts):
            redshift = float(found["by.redshift"][place])
            expected = volume * (density_above(low, redshift) - density_above(high, redshift))
            mean, error = found["mean"][place], _error_of_mean(found, place)
            all_expected = expected * int(found["count"][place])
            # Of a handful of halos in all mocks neither is the mean normal nor its error known.
            seen = all_expected >= 10
            fine = np.linspace(low[0], high[-1], 200)
            upper.plot(fine, _slope(fine, redshift), color=colour)
            style = {"fmt": marker, "color": colour, "markersize": 4, "capsize": 2, "linestyle": "none"}
            upper.errorbar(
                middles[seen],
                mean[seen] / volume / width,
                error[seen] / volume / width,
                label=f"z = {redshift:.3g}",
                **style,
            )
            lower.errorbar(middles[seen], mean[seen] / expected[seen] - 1, error[seen] / expected[seen], **style)
            deviations.append(((mean / expected - 1) * np.sqrt(all_expected))[seen])
            last.append(high[seen].max(initial=low[0]))
        lower.axhline(0, color=MUTED, linewidth=0.8)
        reach = np.nanmax(np.abs(lower.dataLim.intervaly), initial=0.02)
        lower.set_ylim(-min(reach, 1) * 1.1, min(reach, 1) * 1.1)
        upper.set(yscale="log", ylabel=r"d$n$ / d log$_{10}$$M$  (Mpc$^{-3}$ dex$^{-1}$)")
        upper.set_ylim(bottom=0.5 / volume / float(found["count"].max()))
        upper.set_xlim(low[0] - 0.1, max(last) + 0.5)
        lower.set(xlabel=r"log$_{10}$ halo mass  ($M_\odot$)", ylabel="off by")
        lower.yaxis.set_major_formatter("{x:.0%}")
        upper.legend(title="points: mocks; lines: expected")
    off = np.concatenate([np.zeros(1), *deviations])  # of no bins none is off
    return drawn, (
        f"Halo mass function, {_mocks(found)}. Points: mean of the mocks with its error; lines: the mass function that "
        f"halos are drawn from; below: by how much they differ. Over {len(off) - 1} bins the mean square difference "
        f"is {(off**2).sum() / max(len(off) - 1, 1):.2f} in units of Poisson's, the largest {np.abs(off).max():.1f} "
        "sigma."
    )


def main_sequence(results: Any, plane: str = "main_sequence", redshifts: int = 4) -> Any:
    """Specific star formation rate by stellar mass, quenched galaxies apart. Options: `plane`: a `Plane` of the two."""
    found = results.reduced[plane]
    places = [place for place, *_ in _chosen(found, redshifts)]
    with styled():
        drawn = figure(5.4)
        rows = -(-len(places) // 2)
        grid = drawn.subplots(rows, min(len(places), 2), sharex=True, sharey=True, squeeze=False)
        for axes in grid.ravel()[len(places) :]:
            axes.set_axis_off()
        shown = found["counts"][places].sum(axis=1)
        for axes, place in zip(grid.ravel(), places, strict=False):
            mesh = _plane(axes, found, place, max(int(shown.max()), 2))
        grid[0, 0].set_xlim(*_filled(found["x_edges"][0], shown.sum(axis=(0, 2))))
        grid[0, 0].set_ylim(*_filled(found["y_edges"][0], shown.sum(axis=(0, 1))))
        drawn.supylabel(r"log$_{10}$ SFR / $M_\star$  (yr$^{-1}$)", fontsize=12)
        drawn.supxlabel(r"log$_{10}$ stellar mass  ($M_\odot$)", fontsize=12)
        drawn.colorbar(mesh, ax=grid.ravel().tolist(), pad=0.01, aspect=40).set_label("galaxies")
        for colour, style, name in ((BLUE, "-", "forming stars"), (ORANGE, "--", "quenched"), (INK, ":", "observed")):
            grid[0, 0].plot([], [], style, color=colour, label=name)
        drawn.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return drawn, (
        f"Star formation by stellar mass, {_mocks(found)}. Grey: galaxies in all mocks; contours hold 39 % and 86 % of "
        "those that form stars (solid) and of the quenched (dashed); dotted: the main sequence of Speagle et "
        "al. (2014). "
        f"{int(found['outside'].sum()):,} galaxies lie outside of what was counted."
    )


def _plane(axes: Any, found: Any, place: int, most: int) -> Any:
    """One redshift of a plane; returns what the scale of colours is made of."""
    x, y, counts = found["x_edges"][place], found["y_edges"][place], found["counts"][place]
    redshift, both = float(found["by.redshift"][place]), np.ma.masked_equal(counts.sum(axis=0), 0)
    mesh = axes.pcolormesh(x, y, both.T, norm=LogNorm(1, most), cmap="Greys", rasterized=True, alpha=0.7)
    for kind, colour, dashes in ((0, BLUE, "-"), (1, ORANGE, "--")):
        _contours(axes, x, y, counts[kind], colour, dashes)
    if 0.2 <= redshift <= 3.0:
        line = np.linspace(8.5, x[-1], 20)
        axes.plot(line, Published().main_sequence(line, redshift) - line, ":", color=INK)
    axes.set_title(f"z = {redshift:.3g}, {counts[1].sum() / max(counts.sum(), 1):.0%} quenched")
    return mesh


def clustering(results: Any, power: str = "power", numbers: str = "numbers", redshifts: int = 4) -> Any:
    """The power spectrum of galaxies, with and without shot noise.

    Options: `power`: a `Correlation` of power; `numbers`: one of several outputs, shot_noise the last of them.
    """
    found, noises = results.reduced[power], results.reduced[numbers]["mean"][:, -1]
    k = axis_of(results, "wavenumber")
    with styled():
        drawn = figure(5.2)
        upper, lower = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        chosen = list(_chosen(found, redshifts))
        places = [place for place, *_ in chosen]
        for place, colour, marker in chosen:
            mean, noise = found["mean"][place], float(noises[place])
            scatter = np.sqrt(np.diagonal(found["covariance"][place]))
            label = f"z = {float(found['by.redshift'][place]):.3g}"
            if place in (places[0], places[-1]):  # of all they would hide one another
                band = np.maximum(mean - scatter, 1e-3 * mean), mean + scatter
                upper.fill_between(k, *band, color=colour, alpha=0.15, linewidth=0)
            upper.errorbar(
                k, mean, _error_of_mean(found, place), marker=marker, markersize=4, color=colour, label=label
            )
            upper.axhline(noise, color=colour, linestyle="--", linewidth=1)
            lower.plot(k, mean / noise - 1, marker=marker, markersize=4, color=colour)
        upper.set(xscale="log", yscale="log", ylabel=r"$P(k)$  (Mpc$^3$)")
        lower.set(xlabel=r"wavenumber $k$  (Mpc$^{-1}$)", ylabel=r"$P(k)\,/\,$noise $-$ 1")
        lower.axhline(0, color=MUTED, linewidth=0.8)
        lower.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        lower.xaxis.set_major_formatter("{x:g}")
        lower.xaxis.set_minor_formatter(NullFormatter())
        drawn.legend(loc="outside upper center", ncols=len(chosen))
    return drawn, (
        f"Power spectrum of galaxies, {_mocks(found)}. Points: mean with its error (mostly smaller than they are); "
        "bands: scatter of one mock, at the first and the last redshift; dashed: shot noise V / N, which is in it. "
        "Below: what is beyond it, in its units."
    )


def correlation_matrix(
    results: Any, joint: str = "joint", parts: Sequence[str] = ("stellar_mass", "wavenumber"), redshift: int = 0
) -> Any:
    """Correlation of the data vector across realizations: of all redshifts, and close by of one.

    Options: `joint`: a `Joint`; `parts`: what its outputs are over; `redshift`: which is shown close by, 0 the first.
    """
    found = results.reduced[joint]
    lengths = [len(axis_of(results, part)) for part in parts]
    matrix, at, size = found["correlation"], found["at"], sum(lengths)
    if size * len(at) != len(matrix):
        raise ValueError(f"parts: {list(parts)} have {size} entries a redshift, the vector {len(matrix) / len(at):g}")
    shown = np.where(np.outer(found["constant"], found["constant"]), np.nan, matrix)
    shown[found["constant"]] = shown[:, found["constant"]] = np.nan
    step = -(-len(at) // 8)
    ticks = [(place + 0.5) * size for place in range(0, len(at), step)], [f"{one:.2g}" for one in at[::step]]
    ends = np.cumsum([0, *lengths])
    own = slice(redshift * size, (redshift + 1) * size)
    names = (ends[1:] + ends[:-1]) / 2, [part.replace("_", " ") for part in parts]
    with styled():
        whole, axes = _matrix(shown, ticks, np.arange(1, len(at)) * size if len(at) <= 8 else ())
        axes.set(xlabel="redshift", ylabel="redshift")
        close, _ = _matrix(shown[own, own], names, ends[1:-1])
    words = ", ".join(f"{length} bins of {name}" for length, name in zip(lengths, names[1], strict=True))
    return [
        (whole, _of_correlations(found, matrix, size)),
        (close, f"The part of it at z = {at[redshift]:.3g}: {words}, each from its lowest to its highest."),
    ]


def _matrix(values: Any, ticks: tuple[Any, Sequence[str]], lines: Any) -> tuple[Any, Any]:
    """A figure of correlations, from the upper left, with lines between its blocks; NaN is grey."""
    drawn = figure(4.9)
    axes = drawn.subplots()
    mesh = axes.pcolormesh(values, cmap="PuOr", vmin=-1, vmax=1, rasterized=True)
    axes.set(aspect="equal", facecolor="#d9dde1")
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks(*ticks)
    axes.set_yticks(*ticks, rotation=90, va="center")
    for place in lines:
        axes.axhline(place, color=INK, linewidth=0.6)
        axes.axvline(place, color=INK, linewidth=0.6)
    drawn.colorbar(mesh, ax=axes, pad=0.01, aspect=30).set_label("correlation")
    return drawn, axes


def _of_correlations(found: Any, matrix: Any, size: int) -> str:
    """What a matrix says in words: how large correlations between redshifts are, and would be by chance."""
    varies, count = ~found["constant"], int(found["count"])
    block = np.arange(len(matrix)) // size
    apart = (block[:, None] != block) & np.outer(varies, varies)
    words = f"Correlation matrix of the data vector across {count:,} realizations; grey: entries that never vary."
    if apart.any():
        between = float(np.sqrt(np.mean(matrix[apart] ** 2)))
        words += f" Between redshifts it is {between:.3f} (root mean square), by chance {1 / np.sqrt(count - 1):.3f}."
    return f"{words} {int(found['lacking']):,} realizations lack a redshift and are left out."


def recalibration(results: Any, recalibrated: str = "recalibrated", redshifts: int = 4) -> Any:
    """Stellar mass by halo mass, and how many galaxies form stars how fast, before recalibration and after.

    Options: `recalibrated`: a `Recalibration`.
    """
    found = results.reduced[recalibrated]
    with styled():
        masses, rates = figure(4.2), figure(4.2)
        left, right = masses.subplots(), rates.subplots()
        for place, colour, marker in _chosen(found, redshifts):
            there = np.flatnonzero(found["galaxies"][place])
            edges = slice(there[0], there[-1] + 2)
            label = f"z = {float(found['by.redshift'][place]):.3g}"
            mass, stars = found["mass_edges"][place][edges], found["logsm"][place][edges]
            left.plot(mass, stars, color=colour, label=label, marker=marker, markevery=0.2, markersize=5)
            at, before, after = _abundances(found, place)
            right.plot(at, after, color=colour, label=label, marker=marker, markevery=0.2, markersize=5)
            right.plot(at, before, color=colour, linestyle="--", linewidth=1)
        left.set(xlabel=r"log$_{10}$ peak halo mass  ($M_\odot$)", ylabel=r"log$_{10}$ new stellar mass  ($M_\odot$)")
        right.set(xlabel=r"log$_{10}$ SFR  ($M_\odot$ yr$^{-1}$)", ylabel=r"$n(>\mathrm{SFR})$  (Mpc$^{-3}$)")
        right.set(yscale="log", xlim=(-1.5, 3))
        left.legend()
        right.legend(title="after (dashed: before)")
    beyond, outside = int(found["beyond"].sum()), int(found["outside"].sum())
    return [
        (
            masses,
            f"Recalibration, {_mocks(found)}: the stellar mass that galaxies get by their peak mass. {beyond:,} "
            f"galaxies are beyond what the reference speaks of; {int(found['left_out'].sum()):,} mocks are left out.",
        ),
        (
            rates,
            "Recalibration: how many galaxies form stars faster than a rate, before (dashed) and after. "
            f"{outside:,} are outside of the histogram it was learnt of.",
        ),
    ]


def _abundances(found: Any, place: int) -> tuple[Any, Any, Any]:
    """Rates, and galaxies per volume that are faster, before and after.

    Afterwards the galaxies of a cell are spread over its new interval.
    """
    counts, volume = found["histogram"][place], float(found["volume"][place])
    edges, table = found["rate_edges"][place], found["logsfr"][place][:, 1:-1].astype(float)
    before = np.append(np.cumsum(counts.sum(axis=0)[::-1])[::-1], 0)
    after = np.zeros(len(edges))
    rows, columns = np.nonzero(counts)
    low, high = table[rows, columns], table[rows, columns + 1]
    # Of a cell's galaxies the share above an edge: all, none, or in proportion.
    for number, edge in enumerate(edges):
        share = np.clip((high - edge) / np.maximum(high - low, 1e-6), 0, 1)
        after[number] = (share * counts[rows, columns]).sum()
    # Less than one galaxy in all mocks is nothing to be seen.
    return edges, *(np.where(number >= 1, number / volume, np.nan) for number in (before, after))


def selections(results: Any, selected: str = "selected") -> Any:
    """A table: thresholds of a `NumberDensity`, by redshift."""
    found = results.reduced[selected]
    columns: dict[str, list[Any]] = {"redshift": [], "wanted per Mpc3": [], "found per Mpc3": [], "threshold": []}
    for place, redshift in enumerate(found["by.redshift"]):
        for target, density, threshold in zip(
            *(found[name][place] for name in ("target", "density", "threshold")), strict=True
        ):
            row = (float(redshift), float(target), float(density), float(threshold))
            for name, value in zip(columns, row, strict=True):
                columns[name].append(value)
    lacking = int((~found["reached"]).sum())
    words = f"{lacking} are not to be had: nothing is selected there" if lacking else "all are met"
    return columns, f"Number densities of {selected!r}, by redshift: {words}."


def numbers(results: Any, numbers: str = "numbers") -> Any:
    """A table: how many mocks, halos and galaxies there are.

    Options: `numbers`: a `Correlation` of [n_halos, n_galaxies, …].
    """
    found = results.reduced[numbers]
    means = found["mean"]
    columns = {
        "redshift": found["by.redshift"].tolist(),
        "mocks": found["count"].tolist(),
        "halos a mock": means[:, 0].round(1).tolist(),
        "galaxies a mock": means[:, 1].round(1).tolist(),
        "left out": found["left_out"].tolist(),
    }
    total = int(found["count"].sum())
    average = (means * found["count"][:, None]).sum(axis=0) / max(total, 1)
    return columns, f"{total:,} mocks, on average {average[0]:,.0f} halos and {average[1]:,.0f} galaxies each"


def axis_of(results: Any, name: str) -> Any:
    """Where an axis of an output's lies, as the experiment says; no output is read."""
    axes = _axes(results)
    if name not in axes:
        raise ValueError(f"{name!r} is no axis of the campaign's outputs: {', '.join(axes) or 'none'}")
    return np.asarray(axes[name].values, np.float64)


@lru_cache(maxsize=1)
def _axes(results: Any) -> dict[str, Any]:
    """All of them. Opening the stores of all groups takes seconds where there are many, so figures share them."""
    tree = results.to_xarray()
    leaves = [leaf.to_dataset() for leaf in tree.leaves] if hasattr(tree, "leaves") else [tree]
    return {str(name): leaf.indexes[name] for leaf in leaves for name in leaf.indexes if name != "trial"}


def _chosen(found: Any, most: int) -> Iterator[tuple[int, Any, str]]:
    """Some of the redshifts, evenly from the first to the last, each with a colour and a marker."""
    count = len(found["by.redshift"])
    places = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))
    colours = shades(len(places))
    for number, place in enumerate(places):
        yield int(place), colours[number], MARKERS[number % len(MARKERS)]


def _box(results: Any, box: float | None) -> float:
    """The side of the mocks: as given, or as the campaign declares it."""
    if box is not None:
        return box
    name = "experiment.box"
    if name not in list(results.config):
        raise ValueError("box: the campaign declares no experiment.box; name it")
    return float(results["config." + name])


def _error_of_mean(found: Any, place: int) -> Any:
    return np.sqrt(np.diagonal(found["covariance"][place]) / max(int(found["count"][place]), 1))


def _mocks(found: Any) -> str:
    counts = found.get("count", found.get("boxes"))
    redshifts = found["by.redshift"]
    least, most = int(counts.min()), int(counts.max())
    many = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"{many} mocks at each of {len(redshifts)} redshifts from {redshifts[0]:.3g} to {redshifts[-1]:.3g}"


def _slope(mass: Any, redshift: float) -> Any:
    """dn / dlog10 M of the mass function."""
    return (density_above(mass - 0.005, redshift) - density_above(mass + 0.005, redshift)) / 0.01


def _filled(edges: Any, counts: Any) -> tuple[float, float]:
    """From the first to the last bin that holds a ten-thousandth of all."""
    there = np.flatnonzero(counts > counts.sum() * 1e-4)
    return (float(edges[there[0]]), float(edges[there[-1] + 1])) if len(there) else (float(edges[0]), float(edges[-1]))


def _contours(axes: Any, x: Any, y: Any, counts: Any, colour: str, dashes: str) -> None:
    """Around the densest cells that hold some shares of all."""
    if counts.sum() < 100:
        return
    smooth = _smoothed(_smoothed(counts.astype(float)).T).T
    ranked = np.sort(smooth.ravel())[::-1]
    held = np.cumsum(ranked) / ranked.sum()
    levels = [float(ranked[np.searchsorted(held, share)]) for share in LEVELS]
    middles = (x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2
    axes.contour(*middles, smooth.T, levels=sorted(set(levels)), colors=colour, linestyles=dashes, linewidths=1.3)


def _smoothed(values: Any) -> Any:
    """Along the first axis, by 1-2-1 twice."""
    for _ in range(2):
        padded = np.pad(values, ((1, 1), (0, 0)))
        values = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    return values
