"""The keeper: holds as many jobs as there is work for, and says what it did.

It compares what is wanted with squeue and with the workers that the scheduler sees, and evens out the
difference: a job that is gone, for whatever reason, is replaced while there is work. It knows neither
Dask nor files; every effect goes through `Slurm`.

Threads: `step` and `close` are for one thread (a background thread of the driver's), everything else
may be called from any other at the same time. One lock guards the books and is never held while a
command of SLURM runs, so `look` and its like return at once even where SLURM takes a minute to answer.
Whoever gives work to workers asks `leaving` first, and tells `look` what is busy: a job is cancelled
only if a look shows it idle that came after `leaving` named it.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from staffa.campaign.machine import ClusterConfig, JobShape
from staffa.execution.slurm.budgets import Budget, is_fast, is_hasty, ordered, start_failure
from staffa.execution.slurm.commands import Full, Refused, Slurm, SlurmError
from staffa.execution.slurm.lists import compressed
from staffa.execution.slurm.roll import Change, Roll, Seen
from staffa.execution.slurm.stock import Stock

__all__ = ["Keeper", "Seen"]

NEVER = float("inf")
SOON = 1.0
"""Seconds after which jobs that are to leave are looked at again."""

EVENTS = {"started": "job_started", "requeued": "job_requeued", "held": "job_held"}


@dataclass(frozen=True)
class Order:
    """A submission that is due."""

    pool: str
    jobs: int
    throttle: int | None
    exclude: frozenset[str]


class Keeper:
    """Keeps the pools of a campaign at their size. See the head of this file for threads.

    Arguments:
    - `script`: the text of a pool's job script; `names`: pool -> name of its jobs.
    - `settings`: `poll`, `submit` and `failures` are read.
    - `clock`: unix seconds; `chance`: spreads tries of several drivers.
    - `log_tail`: the last lines of a job's log, by pool and job id; empty where there is none.
    - `max_array`: tasks the site allows in one array.
    """

    def __init__(
        self,
        slurm: Slurm,
        shapes: Mapping[str, JobShape],
        script: Callable[[str], str],
        names: Mapping[str, str],
        settings: ClusterConfig,
        *,
        clock: Callable[[], float],
        chance: random.Random,
        log_tail: Callable[[str, str], str],
        max_array: int,
    ) -> None:
        self._slurm, self._script, self._settings = slurm, script, settings
        self._clock, self._chance, self._log_tail = clock, chance, log_tail
        self._names = set(names.values())
        self._roll = Roll({name: pool for pool, name in names.items()})
        array = max(1, min(settings.submit.array, max_array))
        self._stocks = {
            pool: Stock(pool, shape, self._roll, Budget(settings.failures), array) for pool, shape in shapes.items()
        }
        self._lock, self._stepping = threading.RLock(), threading.Lock()
        self._news: list[dict[str, Any]] = []
        self._looks = 0
        self._stepped = self._polled = False
        self._interval, self._poll_at = settings.poll.initial, -NEVER
        self._silent: float | None = None
        self._doubt = self._disobeyed = False
        self._tend_at = self._submit_at = -NEVER
        self._refusal: Refused | None = None

    # What others say and ask

    @property
    def wanted(self) -> dict[str, int]:
        """Workers wanted of each pool."""
        with self._lock:
            return {pool: stock.wanted for pool, stock in self._stocks.items()}

    def scale(self, pool: str, workers: int) -> None:
        """Want so many workers of a pool from now on. A paused pool goes on, and its failures are forgotten."""
        with self._lock:
            if self._stocks[pool].resume(workers, self._clock()):
                self._say("pool_continued", pool=pool, wanted=workers)
            self._hurry()

    def look(self, needed: Mapping[str, int], seen: Collection[Seen], spent: Collection[str] = ()) -> None:
        """Tell what there is to do and who is there. Nothing is submitted before the first look.

        Arguments:
        - `needed`: workers of each pool that would have something to do; more than wanted is the same as wanted.
        - `seen`: all workers that are connected now.
        - `spent`: jobs with too little time left for anything that waits; they are replaced.
        """
        with self._lock:
            now = self._clock()
            self._looks += 1
            fresh, moved = self._roll.look(seen, now)
            for job in fresh:
                self._stocks[job.pool].budget.joined(job.nodes)
            for pool, stock in self._stocks.items():
                stock.need.tell(max(0, needed.get(pool, 0)), now)
                stock.spent = frozenset(spent)
            if moved:
                self._hurry()

    def leaving(self) -> set[str]:
        """Jobs whose workers are to get nothing new. None of them is cancelled before a look that follows."""
        with self._lock:
            here = [job for job in self._roll if job.phase != "gone" or job.workers]
            leaving = [job for job in here if job.leaving or not job.live]
            for job in leaving:
                job.told = self._looks if job.told is None else job.told
            return {job.id for job in leaving}

    def news(self) -> list[dict[str, Any]]:
        """What happened since this was last asked: dictionaries with `event`, `at` and what belongs to it."""
        with self._lock:
            told, self._news = self._news, []
            return told

    def facts(self) -> dict[str, dict[str, Any]]:
        """Every pool in numbers and words: `wanted`, `needed`, `connected` count workers, the other numbers jobs."""
        with self._lock:
            silent = 0.0 if self._silent is None else self._clock() - self._silent
            return {pool: {**stock.facts(), "silent": silent} for pool, stock in self._stocks.items()}

    # What the background thread does

    def step(self) -> float:
        """Do what is due; the seconds until something may be due again.

        The first step raises `Refused` where SLURM took no job and there is none; later ones raise
        nothing: a pool that is refused pauses, silence is waited out.
        """
        with self._stepping:
            first, self._stepped = not self._stepped, True
            self._wind()
            if self._clock() >= self._poll_at:
                self._poll()
            if self._polled and self._silent is None and self._looks:
                self._tend()
                self._submit()
            with self._lock:
                if first and self._refusal is not None and not any(job.live for job in self._roll):
                    raise self._refusal
                return max(0.0, self._due() - self._clock())

    def close(self, *, cancel: bool) -> str:
        """End. With `cancel` no job of the campaign stays, those of earlier drivers included.

        Returns why some may have stayed; empty if all is well.
        """
        with self._stepping:
            said = ""
            with self._lock:
                left = [job.id for job in self._roll if job.phase in ("queued", "running")]
            try:
                left = [task.id for task in self._slurm.tasks(self._names) if not task.over] if cancel else []
            except SlurmError as error:
                said = error.message
            try:
                self._slurm.cancel(left)
            except SlurmError as error:
                said = error.message
            return said

    # The queue

    def _poll(self) -> None:
        try:
            tasks = self._slurm.tasks(self._names)
        except SlurmError as error:
            with self._lock:
                self._unanswered(error)
            return
        with self._lock:
            now = self._clock()
            if self._silent is not None:
                self._say("squeue_answers", seconds=now - self._silent)
            changes = self._roll.merge(tasks, now)
            self._silent, self._polled, self._doubt = None, True, False
            self._interval = self._settings.poll.initial if changes else self._longer()
            self._poll_at = now + self._interval
        self._conclude(changes)

    def _unanswered(self, error: SlurmError) -> None:
        """Nothing is known, so nothing is concluded."""
        now = self._clock()
        if self._silent is None:
            self._silent = now
            self._say("squeue_silent", why=error.message)
        self._interval = self._longer()
        self._poll_at = now + self._interval

    def _longer(self) -> float:
        return min(2 * self._interval, self._settings.poll.maximum)

    def _hurry(self) -> None:
        """Something changed: ask the queue soon, and often for a while."""
        if self._silent is None:
            self._interval = self._settings.poll.initial
            self._poll_at = min(self._poll_at, self._clock() + self._interval)

    def _conclude(self, changes: list[Change]) -> None:
        """What follows from what squeue said."""
        ends = ordered([change for change in changes if change.what == "ended"])
        # Logs lie on a network's disk: they are read without the lock.
        failed = {end.job.id: words for end in ends if (words := start_failure(end, self._log_tail))}
        with self._lock:
            for pool, jobs in Counter(change.job.pool for change in changes if change.what == "adopted").items():
                self._say("jobs_adopted", pool=pool, jobs=jobs)
            for change in changes:
                if change.what in EVENTS:
                    job = change.job
                    self._say(EVENTS[change.what], pool=job.pool, job=job.id, node=job.node, reason=job.reason)
                if change.what == "started" and change.job.joined:
                    self._stocks[change.job.pool].budget.joined(change.job.nodes)
            # However many a node's prolog stops, it is drained after the first.
            for job in {change.job.pool: change.job for change in changes if change.what == "held"}.values():
                self._failed(job.pool, [], f"SLURM holds job {job.id}: {job.reason}", fast=False)
            for end in ends:
                self._ended(end, failed.get(end.job.id))
            for pool in {change.job.pool for change in changes if change.job.id in failed or is_hasty(change)}:
                self._brake(self._stocks[pool])

    def _ended(self, end: Change, words: str | None) -> None:
        job, stock = end.job, self._stocks[end.job.pool]
        facts = {"pool": job.pool, "job": job.id, "node": job.node, "state": job.state, "seconds": end.seconds}
        cause = {"cause": "given back"} if job.cancelled is not None else {}
        if words is not None:
            cause = {"cause": "no worker came", "words": words}
        self._say("job_ended", **facts, **cause)
        if words is not None and stock.budget.counts(end):
            self._failed(job.pool, job.nodes, words, fast=is_fast(end))
        elif end.seconds is not None and not is_fast(end):
            stock.budget.short = 0

    def _failed(self, pool: str, nodes: list[str], words: str, *, fast: bool) -> None:
        stock = self._stocks[pool]
        stock.budget.failed(nodes, words, fast=fast)
        if stock.budget.spent and not stock.paused:
            count = stock.budget.in_a_row
            why = f"{count} jobs in a row ended before a worker came; the last one said: {words}"
            self._pause(stock, why, f"once that is mended: staffa scale RUN {pool}={stock.wanted}")

    def _pause(self, stock: Stock, why: str, hint: str) -> None:
        stock.pause(why, hint)
        self._say("pool_paused", pool=stock.pool, why=why, hint=hint)

    def _brake(self, stock: Stock) -> None:
        """Jobs that end at once are replaced slower and slower."""
        poll = self._settings.poll
        stock.not_before = self._clock() + min(poll.initial * 2.0 ** min(stock.budget.short, 30), poll.maximum)
        stock.budget.short += 1

    # Jobs that are there

    def _tend(self) -> None:
        """Bring what is in the queue in line: bad nodes left out, jobs let go, throttles."""
        if self._clock() < self._tend_at:
            return
        failed: SlurmError | None = None
        for act in (self._let_go, self._judge_nodes, self._leave_out, self._throttle):
            try:
                act()
            except SlurmError as error:
                failed = error
                if not isinstance(error, Refused):
                    break
        with self._lock:
            if failed is not None:
                self._tend_at = self._clock() + self._interval
                if not self._disobeyed:
                    self._say("command_failed", why=failed.message, hint=failed.hint)
            self._disobeyed = failed is not None

    def _judge_nodes(self) -> None:
        for stock in self._stocks.values():
            if not stock.budget.suspects:
                continue
            states = self._slurm.nodes(stock.partition)
            with self._lock:
                failures, words = dict(stock.budget.by_node), stock.budget.words
                for node in stock.budget.judge(states, stock.shape.nodes):
                    stock.not_before = 0.0
                    self._say("node_excluded", pool=stock.pool, node=node, failures=failures[node], words=words)

    def _let_go(self) -> None:
        with self._lock:
            now = self._clock()
            going = [job for stock in self._stocks.values() for job in stock.depart(self._looks, now)]
        if not going:
            return
        self._slurm.cancel([job.id for job in going])
        with self._lock:
            now = self._clock()
            for job in going:
                job.cancelled = now
            for pool, jobs in Counter(job.pool for job in going).items():
                ids = compressed(job.id for job in going if job.pool == pool)
                self._say("jobs_cancelled", pool=pool, jobs=jobs, ids=ids)
            self._hurry()

    def _leave_out(self) -> None:
        for stock in self._stocks.values():
            with self._lock:
                arrays, nodes = stock.unaware(), stock.excluded
            if arrays:
                self._slurm.exclude(arrays, nodes)
                stock.exclusions |= dict.fromkeys(arrays, nodes)

    def _throttle(self) -> None:
        for stock in self._stocks.values():
            with self._lock:
                shares, _ = stock.shares()
            for array, share in shares.items():
                if stock.throttles.get(array) != share:
                    self._slurm.throttle(array, share)
                    stock.throttles[array] = share

    # Jobs that are missing

    def _submit(self) -> None:
        with self._lock:
            order = self._order()
        if order is None:
            return
        text = self._script(order.pool)
        stock = self._stocks[order.pool]
        try:
            array = self._slurm.submit(text, order.jobs, throttle=order.throttle, exclude=sorted(order.exclude))
        except SlurmError as error:
            with self._lock:
                self._not_taken(stock, order, error)
        else:
            with self._lock:
                self._taken(stock, order, array)
        with self._lock:
            self._submit_at = self._clock() + self._settings.submit.every

    def _order(self) -> Order | None:
        """The next submission, if one is due."""
        now = self._clock()
        if self._doubt or now < self._submit_at:
            return None
        for pool, stock in self._stocks.items():
            missing = stock.missing(now)
            if missing > 0 and now >= stock.not_before:
                return Order(pool, min(missing, stock.chunk), stock.shares()[1], stock.excluded)
        return None

    def _taken(self, stock: Stock, order: Order, array: int) -> None:
        now = self._clock()
        self._roll.submitted(order.pool, array, order.jobs, now)
        stock.throttles[array], stock.exclusions[array] = order.throttle, order.exclude
        stock.tries = 0
        if now - stock.full_at > self._settings.poll.maximum:
            stock.troubled, stock.chunk = False, min(2 * stock.chunk, stock.array)
        self._say("jobs_submitted", pool=order.pool, array=array, jobs=order.jobs)
        self._hurry()

    def _not_taken(self, stock: Stock, order: Order, error: SlurmError) -> None:
        now = self._clock()
        if isinstance(error, Full):
            self._trouble(stock, "queue_full", error)
            stock.full_at, stock.chunk = now, max(1, order.jobs // 2)
            if order.jobs == 1:
                stock.not_before = now + self._settings.poll.maximum
        elif isinstance(error, Refused):
            self._refusal = self._refusal or error
            self._pause(stock, error.message, error.hint)
        else:
            self._try_later(stock, error)

    def _try_later(self, stock: Stock, error: SlurmError) -> None:
        """Nobody knows whether the jobs were taken. Only squeue can tell: it is asked before the next try."""
        settings = self._settings
        self._trouble(stock, "submit_failing", error)
        stock.tries += 1
        wait = min(settings.submit.every * 2.0**stock.tries, settings.poll.maximum) * (0.5 + self._chance.random())
        if stock.tries >= settings.submit.attempts:
            stock.tries, wait = 0, settings.poll.maximum
        stock.not_before = self._clock() + wait
        self._doubt = True
        self._hurry()

    def _trouble(self, stock: Stock, event: str, error: SlurmError) -> None:
        if not stock.troubled:
            self._say(event, pool=stock.pool, why=error.message, hint=error.hint)
        stock.troubled = True

    # Time

    def _wind(self) -> None:
        """A clock that was set back must not make anything wait for longer than it ever does."""
        with self._lock:
            latest = self._clock() + self._settings.poll.maximum
            self._poll_at, self._tend_at = min(self._poll_at, latest), min(self._tend_at, latest)
            self._submit_at = min(self._submit_at, self._clock() + self._settings.submit.every)
            for stock in self._stocks.values():
                stock.not_before = min(stock.not_before, latest)

    def _due(self) -> float:
        """When something may be due again, if nobody says anything new."""
        if self._silent is not None or not self._polled or not self._looks:
            return self._poll_at
        now, due = self._clock(), self._poll_at
        for stock in self._stocks.values():
            if stock.missing(now) > 0 and not self._doubt:
                due = min(due, max(stock.not_before, self._submit_at))
            if stock.need.falling or len(stock.live()) > stock.target():
                due = min(due, now + SOON)
        return due

    def _say(self, event: str, **facts: Any) -> None:
        self._news.append({"event": event, "at": self._clock(), **facts})
