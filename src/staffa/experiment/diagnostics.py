"""How far a trial's draws can be trusted: effective sample sizes, R-hat, Monte Carlo standard errors.

All of a batch at once, in NumPy and double precision, where the draws are. Definitions are those of
Vehtari, Gelman, Simpson, Carpenter & Bürkner, Rank-normalization, folding, and localization: an
improved R-hat (Bayesian Analysis 16:667, 2021); chains are split in halves throughout. ArviZ gives the
same numbers, one series at a time; but for R-hat it wants two chains, where the halves of one are
compared here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt

Row = npt.NDArray[np.float64]

FEWEST_DRAWS = 4
"""Fewer draws than these cannot be split into halves that vary."""
TAIL = (0.05, 0.95)
"""Quantiles between which the bulk lies."""
RESOLUTION = 1e-15
"""A series whose values differ by less is constant, and each of its draws counts."""
LAGS = (8, 32)
"""Autocorrelations looked at before all of them are."""
TIE = 1e-9
"""A pair of autocorrelations nearer to 0 may be on either side of it."""
BLOCK = 1 << 15
"""Numbers worked on at a time: with what is made of them they stay in a core's cache."""


def diagnosed(values: npt.ArrayLike, words: Iterable[str] | None = None) -> dict[str, Row]:
    """What is to be said of each of many series of draws.

    Arguments:
    - `values`: (series, chains, draws) numbers.
    - `words`: which of `DIAGNOSTICS`; by default all.

    Returns (series,) numbers for each word: `ess` of the bulk and `ess_tail`, in draws; `rhat`; `mcse` of
    the mean and `mcse_sd` of the standard deviation, in the unit of the values. NaN stands where there is a
    NaN among the draws, where there are fewer than four to a chain, and where 0 would be divided by 0 (R-hat
    of a series that does not vary).
    """
    chosen = tuple(DIAGNOSTICS if words is None else words)
    series = np.asarray(values)
    found = {word: np.full(len(series), np.nan) for word in chosen}
    if not chosen or series.shape[2] < FEWEST_DRAWS:
        return found
    step = max(BLOCK // (series.shape[1] * series.shape[2]), 1)
    for first in range(0, len(series), step):
        block = series[first : first + step].astype(np.float64)
        sound = ~np.isnan(block).any(axis=(1, 2))
        # Infinities have ranks and quantiles, but no mean.
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            for word, numbers in _said(block[sound], chosen).items():
                found[word][first : first + step][sound] = numbers
    return found


def effective(chains: Row) -> Row:
    """Effective sample size of the mean of (series, chains, draws) values, as they are: (series,).

    The sum of autocorrelations is cut off where pairs of them turn negative, and made monotone (Geyer,
    Practical Markov chain Monte Carlo, Stat. Sci. 7:473, 1992).
    """
    count, draws = chains.shape[1:]
    means = chains.mean(axis=2)
    centred = chains - means[:, :, None]
    whole = np.einsum("scd,scd->s", centred, centred) / (count * draws)
    within = whole * draws / (draws - 1.0)
    if count > 1:
        whole = whole + means.var(axis=1, ddof=1)
    time, rest = np.full(len(chains), np.nan), np.arange(len(chains))
    for lags in (*(few for few in LAGS if few < draws), draws):
        # Most chains forget within a few draws: those lags one by one take a fifth of the time of a transform.
        covariance = _covariance(centred[rest], lags) if lags < draws else autocovariance(chains[rest]).mean(axis=1)
        summed, sure = _summed(1.0 - (within[rest, None] - covariance) / whole[rest, None], draws)
        sure |= lags == draws
        time[rest[sure]], rest = summed[sure], rest[~sure]
        if not len(rest):
            break
    size = count * draws / np.maximum(time, 1 / np.log10(count * draws))
    flat = chains.reshape(len(chains), -1)
    constant = flat.max(axis=1) - flat.min(axis=1) < RESOLUTION
    return np.asarray(np.where(constant, float(count * draws), size), np.float64)


def autocovariance(chains: Row) -> Row:
    """Of each lag along the last axis, over the number of all draws, by Fourier transform: same shape."""
    from scipy.fft import next_fast_len  # half a second, which campaigns without chains need not wait for

    draws = chains.shape[-1]
    length = next_fast_len(2 * draws)
    spectrum = np.fft.rfft(chains - chains.mean(axis=-1, keepdims=True), n=length, axis=-1)
    spectrum *= np.conjugate(spectrum)
    return np.asarray(np.fft.irfft(spectrum, n=length, axis=-1)[..., :draws] / draws, np.float64)


def _covariance(centred: Row, lags: int) -> Row:
    """(series, lags): the first autocovariances of chains with mean 0, on average over the chains."""
    count, draws = centred.shape[1:]
    found = np.empty((len(centred), lags))
    for lag in range(lags):
        np.einsum("scd,scd->s", centred[:, :, lag:], centred[:, :, : draws - lag], out=found[:, lag])
    return np.asarray(found / (count * draws))


def _summed(correlation: Row, draws: int) -> tuple[Row, npt.NDArray[np.bool_]]:
    """Integrated autocorrelation time from (series, lags) correlations: -1 + 2 x their sum, cut off and monotone.

    Returns it, and whether the lags were enough to tell. Where a pair is 0 but for rounding they are not: ArviZ
    goes by the sign that rounding gives it, and so do we, with the same operations on all lags.
    """
    correlation[:, 0] = 1.0
    lags = correlation.shape[1]
    even = correlation[:, 0::2][:, : lags // 2]
    pairs = even + correlation[:, 1::2]
    # The last pair but for one more correlation; beyond, too few draws overlap.
    most = max((draws - 3) // 2, 0)
    stop = pairs[:, : most + 1] <= 0
    stop[:, most:] = True
    last = np.where(stop.any(axis=1), stop.argmax(axis=1), lags // 2)
    place = np.arange(lags // 2)
    total = np.where(place < last[:, None], np.minimum.accumulate(pairs, axis=1), 0.0).sum(axis=1)
    row, end = np.arange(len(correlation)), np.minimum(last, lags // 2 - 1)
    edge = even[row, end]
    edge = np.where((edge > 0) | (pairs[row, end] >= 0), edge, 0.0)
    unsure = (np.abs(pairs) < TIE) & (place <= last[:, None])
    sound = ~np.isnan(correlation).any(axis=1)
    return np.where(sound, -1.0 + 2.0 * total + edge, np.nan), (last < lags // 2) & sound & ~unsure.any(axis=1)


def _said(values: Row, words: Sequence[str]) -> dict[str, Row]:
    """The words of one block without NaN."""
    series = _Series(values)
    return {word: DIAGNOSTICS[word](series) for word in words} if len(values) else {}


class _Series:
    """A block of series (series, chains, draws), and what several words need of it, made once."""

    def __init__(self, values: Row) -> None:
        self.values = values
        self.split = _split(values)

    @cached_property
    def order(self) -> npt.NDArray[np.int64]:
        """Places of the halves' values in ascending order."""
        return _order(self.split)

    @cached_property
    def ranked(self) -> Row:
        """The halves' values in ascending order: (series, chains x draws), without odd draws in the middle."""
        return np.asarray(self.split.reshape(-1)[self.order])

    @cached_property
    def scores(self) -> Row:
        return _scores(self.order, self.ranked).reshape(self.split.shape)

    @cached_property
    def size(self) -> Row:
        """Effective sample size of the mean."""
        return effective(self.split)


def _split(values: Row) -> Row:
    """Each chain in two: (series, 2 x chains, draws // 2); the middle one of an odd number of draws is left out."""
    half = values.shape[2] // 2
    return np.concatenate([values[:, :, :half], values[:, :, -half:]], axis=1)


def normal_scores(values: Row) -> Row:
    """Each value of (series, chains, draws) as the quantile of a standard normal that its rank in the series is.

    Equal values have their mean rank; fractional offset 3/8 (Blom, Statistical Estimates and Transformed
    Beta-Variables, 1958).
    """
    order = _order(values)
    return _scores(order, values.reshape(-1)[order]).reshape(values.shape)


def _order(values: Row) -> npt.NDArray[np.int64]:
    """Where the values of each series stand in ascending order, as places in the flat array."""
    flat = values.reshape(len(values), -1)
    order = np.argsort(flat, axis=1)
    order += np.arange(len(flat))[:, None] * flat.shape[1]
    return order


def _scores(order: npt.NDArray[np.int64], ranked: Row) -> Row:
    scores = np.empty(ranked.size)
    scores[order] = _quantiles(ranked.shape[1])[_double_ranks(ranked)]
    return scores


def _double_ranks(ranked: Row) -> npt.NDArray[np.int64]:
    """Twice the mean rank, from 1, of each of sorted (series, size) values."""
    size = ranked.shape[1]
    place = np.arange(size)
    new = np.ones(ranked.shape, bool)
    np.not_equal(ranked[:, 1:], ranked[:, :-1], out=new[:, 1:])
    if new.all():
        return np.broadcast_to(2 * (place + 1), ranked.shape)
    first = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    ends = np.ones(ranked.shape, bool)
    ends[:, :-1] = new[:, 1:]
    last = np.minimum.accumulate(np.where(ends, place, size)[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(first + last + 2)


@cache
def _quantiles(size: int) -> Row:
    """Normal quantiles by twice the rank, up to 2 x size."""
    from scipy.special import ndtri  # as above

    return np.asarray(ndtri((np.arange(2 * size + 1) / 2 - 3 / 8) / (size - 2 * (3 / 8) + 1)))


def _potential(chains: Row) -> Row:
    """R-hat of (series, chains, draws) values, as they are."""
    draws = chains.shape[2]
    between = draws * chains.mean(axis=2).var(axis=1, ddof=1)
    within = chains.var(axis=2, ddof=1).mean(axis=1)
    return np.asarray(np.sqrt((between / within + draws - 1) / draws))


def _rhat(series: _Series) -> Row:
    """The larger of R-hat in the bulk and in the tails."""
    split = series.split
    bulk = _potential(series.scores)
    half = series.ranked.shape[1] // 2
    median = series.ranked[:, half - 1 : half + 1].mean(axis=1)
    tail = _potential(normal_scores(np.abs(split - median[:, None, None])))
    return np.asarray(np.where(tail > bulk, tail, bulk))


def _ess_tail(series: _Series) -> Row:
    """The smaller of the effective sample sizes of the two quantiles."""
    values = series.values
    whole = values.shape[2] % 2 == 0
    ranked = series.ranked if whole else np.sort(values.reshape(len(values), -1), axis=1)
    bounds = (_quantile(ranked, probability)[:, None, None] for probability in TAIL)
    low, high = (effective((series.split <= bound).astype(np.float64)) for bound in bounds)
    return np.asarray(np.where(high < low, high, low))


def _quantile(ranked: Row, probability: float) -> Row:
    """Of ascending (series, size) values, linear between them: to the last bit what `numpy.quantile` gives."""
    place = probability * (ranked.shape[1] - 1)
    low, part = int(place), place - int(place)
    below, above = ranked[:, low], ranked[:, min(low + 1, ranked.shape[1] - 1)]
    return np.asarray(below + (above - below) * part if part < 0.5 else above - (above - below) * (1 - part))


def _mcse(series: _Series) -> Row:
    return np.asarray(series.values.std(axis=(1, 2), ddof=1) / np.sqrt(series.size))


def _mcse_sd(series: _Series) -> Row:
    """By the delta method, from the variance of the squared deviations."""
    values = series.values
    squares = (values - values.mean(axis=(1, 2), keepdims=True)) ** 2
    variance = squares.mean(axis=(1, 2))
    spread = ((squares**2).mean(axis=(1, 2)) - variance**2) / series.size
    return np.asarray(np.sqrt(spread / variance / 4))


DIAGNOSTICS: dict[str, Callable[[_Series], Row]] = {
    "ess": lambda series: effective(series.scores),
    "ess_tail": _ess_tail,
    "rhat": _rhat,
    "mcse": _mcse,
    "mcse_sd": _mcse_sd,
}
"""Words of the table of trials, and how each is found."""
