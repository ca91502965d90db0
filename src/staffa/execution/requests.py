"""What other shells ask of a live driver, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from staffa.campaign.plan import Plan
from staffa.execution.ending import Stop
from staffa.execution.growing import carry_out, look_again
from staffa.execution.pool import Pool
from staffa.execution.refilling import Refill
from staffa.execution.sealing import Sealing
from staffa.execution.verify import reopen
from staffa.execution.wishes import Wishes
from staffa.storage.control import Request


@dataclass(frozen=True)
class Requests:
    """Who does what is asked.

    Arguments:
    - `refill`: what asks for more trials.
    - `adopt`: puts a plan that has grown in the place of the driver's.
    - `busy`: parts that are being sealed.
    - `since`: Unix time at which this driver began: what was asked before was asked of another one.
    """

    wishes: Wishes
    refill: Refill
    sealing: Sealing
    pool: Pool
    stop: Stop
    adopt: Callable[[Plan], None]
    busy: Callable[[], Collection[int]]
    since: float

    def obey(self, request: Request) -> dict[str, Any]:
        """Do what is asked; returns `done` with what came of it, or `why` it was not."""
        asked, reply = request.arguments, dict[str, Any](done=True)
        if request.at < self.since - 1:
            return {"done": False, "why": "asked of an earlier driver"}
        if request.verb == "stop":
            self.stop.reason = "stopped"
        elif request.verb == "retry":
            reply["trials"] = self.wishes.retry(asked.get("trials"))
        elif request.verb == "cancel":
            reply |= self.wishes.cancel(asked["trials"], str(asked.get("why", "")))
        elif request.verb == "mend":
            reply["batches"] = reopen(self.wishes, asked["batches"])
        elif request.verb == "consolidate":
            reply["parts"] = self.sealing.ask(self.busy(), prune=bool(asked.get("prune")))
        elif request.verb == "grow":
            reply = carry_out(self.wishes, asked, self.adopt)
        elif request.verb == "reconcile":
            reply = look_again(self.wishes.desk)
        elif request.verb == "objectives":
            reply = self.refill.change(asked["patch"])
        elif request.verb == "scale":
            reply = self.pool.scale(dict(asked.get("workers", {})))
        else:
            reply = {"done": False, "why": f"unknown request {request.verb!r}"}
        return reply
