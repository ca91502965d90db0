"""The routes of a served search: HTTP in, one call of a `Study`, JSON out.

What is quick (telling, beating, asking for what was suggested ahead) is done in the loop's own thread, without a hop to
another. Where a strategy has to think, or many trials are to be ranked, it is done in others.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Header, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPBearer
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from staffa.errors import ConfigError, StaffaError
from staffa.search.serving import models
from staffa.search.serving.events import stream
from staffa.search.serving.gate import Gate
from staffa.search.serving.tokens import Tokens
from staffa.search.study import ConflictError, Study, UnknownTrialError
from staffa.storage.files import DISK

DOCUMENT = "/v1/openapi.json"
FIELD = re.compile(r"^([a-z_]\w*(?:\.[^\s:]+|\[\d+\])*): ")
"""How a message begins that blames a field."""

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="The same key again gets the answer the first call got.",
    ),
]
Limit = Annotated[int, Query(ge=1, le=10_000)]
REFUSALS: Mapping[int | str, dict[str, Any]] = MappingProxyType(
    {
        code: {"model": models.Error, "description": said}
        for code, said in {
            401: "No token, or a wrong one.",
            403: "The read token where something is changed.",
            404: "No such trial.",
            409: "It contradicts what stands.",
            413: "The body is too large.",
            422: "Something is wrong with the field that is named.",
            507: "The disk is full; nothing was recorded.",
        }.items()
    }
)
LOOKS = (401, 422)
CHANGES = (401, 403, 404, 409, 413, 422, 507)
"""How the routes may refuse."""


@dataclass
class Serving:
    """What the routes share.

    Arguments:
    - `nudge`: called after something was asked or told: a refit, or suggestions, may be due.
    - `stopping`: whether streams are to end.
    - `longest_stream`: seconds after which a stream of events ends by itself.
    - `elsewhere`: who does the trials, where it is not those who ask here: then nobody can ask or tell.
    - `rescore`: has objectives changed where that is not the study's to decide; afterwards the study knows, too.
    """

    study: Study
    nudge: Callable[[], object] = lambda: None
    stopping: Callable[[], bool] = lambda: False
    longest_stream: float = math.inf
    elsewhere: str = ""
    rescore: Callable[[Mapping[str, Mapping[str, Any]]], object] | None = None
    asking: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "asking"))


def application(serving: Serving, tokens: Tokens) -> Gate:
    """The whole server as an ASGI application: the gate, and the routes behind it."""
    app = FastAPI(
        title="A search of Staffa",
        description="Ask for trials, tell what came of them. Workers may be written in any language.",
        version="1",
        openapi_url=DOCUMENT,
        # Their pages load scripts from elsewhere, with the token in reach.
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(_changing(serving))
    app.include_router(_looking(serving))
    _complaints(app)
    return Gate(app, tokens, frozenset({DOCUMENT}))


def _answer(said: object, status: int = 200) -> Response:
    return Response(to_json(said, inf_nan_mode="null"), status, media_type="application/json")


def _router(refusals: Iterable[int]) -> APIRouter:
    # The gate has looked at the token by then; this says in the document that there is one.
    token = Security(HTTPBearer(auto_error=False, description="A token of the run's secrets/."))
    return APIRouter(prefix="/v1", responses={code: REFUSALS[code] for code in refusals}, dependencies=[token])


def _changing(serving: Serving) -> APIRouter:
    router, study = _router(CHANGES), serving.study

    @router.post("/ask", response_model=models.Given)
    async def ask(body: models.Ask, key: Key = None) -> Response:
        """Trials to be done. None may mean that others still run: ask again, unless `finished`."""
        _check_here(serving)
        asked = study.ask_at_once(body.count, worker=body.worker, key=key)
        if asked is None:
            call = partial(study.ask, body.count, worker=body.worker, key=key)
            asked = await asyncio.get_running_loop().run_in_executor(serving.asking, call)
        serving.nudge()
        return _answer({"trials": asked, "finished": not asked and study.finished})

    @router.post("/tell", response_model=models.Taken)
    async def tell(body: models.Tell, key: Key = None) -> Response:
        """The result of a trial, once. The same one again is `replayed`, another one a conflict (409)."""
        _check_here(serving)
        if body.trial is None:
            verdict = study.add(body.params or {}, body.values or {}, key=key)
        else:
            verdict = study.tell(
                body.trial,
                body.values,
                attempt=body.attempt,
                key=key,
                failed=body.failed,
                params=body.params,
            )
        serving.nudge()
        return _answer(verdict)

    @router.post("/cancel", response_model=models.Cancelled)
    async def cancel(body: models.Cancel) -> Response:
        """Nobody is to run these trials; with `again` somebody else is, and it costs them no try."""
        _check_here(serving)
        states = study.cancel(body.trials, again=body.again, worker=body.worker)
        return _answer({"states": {str(number): state for number, state in states.items()}})

    @router.post("/heartbeat", response_model=models.Heard)
    async def heartbeat(body: models.Heartbeat) -> Response:
        """A worker is alive: its trials are its own for another lease."""
        _check_here(serving)
        beat = study.beat(body.worker, body.trials)
        return _answer({"held": beat.held, "lost": beat.lost, "finished": study.finished})

    @router.patch("/objectives", response_model=models.Changed)
    async def objectives(body: dict[str, models.Change]) -> Response:
        """Let something else be good. Every trial is scored anew; nothing runs again."""
        patch = {name: change.model_dump(exclude_unset=True) for name, change in body.items()}
        return _answer({"objectives": await asyncio.to_thread(_rescored, serving, patch)})

    return router


def _check_here(serving: Serving) -> None:
    """Refuse whoever would do trials of a search that somebody else does."""
    if serving.elsewhere:
        raise ConflictError(f"the trials of this search are done by {serving.elsewhere}", "look at it: GET /v1/status")


def _rescored(serving: Serving, patch: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    study = serving.study
    if patch and serving.rescore is not None:
        study.objectives.changed(patch)
        serving.rescore(patch)
    elif patch:
        study.rescore(study.objectives.changed(patch))
    return study.objectives.words()


def _looking(serving: Serving) -> APIRouter:
    router, study = _router(LOOKS), serving.study

    @router.get("/trials", response_model=models.Listed)
    async def trials(since: Annotated[int, Query(ge=0, le=2**53)] = 0, limit: Limit = 1000) -> Response:
        """Trials by number, from `since` on, wherever they stand."""
        found = await asyncio.to_thread(study.trials, since, limit)
        return _answer({"trials": found, "next": since + limit if len(found) == limit else None})

    @router.get("/top", response_model=models.Best)
    async def top(k: Limit = 10) -> Response:
        """The best trials, best first: by score, or with several groups by front and crowding."""
        return _answer({"trials": await asyncio.to_thread(study.top_k, k)})

    @router.get("/fronts", response_model=models.Fronts)
    async def fronts(k: Annotated[int, Query(ge=1, le=1000)] = 1) -> Response:
        """The first fronts: of each, trials than which no other of it or of later ones is better in all groups."""
        return _answer({"fronts": await asyncio.to_thread(study.fronts, k)})

    @router.get("/status", response_model=models.Status)
    async def status() -> Response:
        """The search in short."""
        return _answer(await asyncio.to_thread(study.status))

    @router.get("/events", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}}})
    async def events(
        since: Annotated[int, Query(ge=0, le=2**53, description="A cursor: the `id` of an event, or of /status.")] = 0,
        last: Annotated[int | None, Header(alias="Last-Event-ID", ge=0, le=2**53)] = None,
        follow: Annotated[bool, Query(description="Stay, and hear what happens; false: what stands, and end.")] = True,
    ) -> StreamingResponse:
        """All that happened behind a cursor, and what happens from then on, as server-sent events."""
        cursor = since if last is None else last
        said: AsyncIterator[bytes] = stream(study, cursor, serving.stopping, serving.longest_stream if follow else 0.0)
        return StreamingResponse(said, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return router


def _complaints(app: FastAPI) -> None:
    """Every refusal in one form: what, of which field, what to do."""

    def said(status: int, error: str, field: str = "", hint: str = "") -> Response:
        return _answer({"error": error, "field": field, "hint": hint}, status)

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            place = first["loc"][-1] if len(first["loc"]) > 1 else 0
            return said(422, f"not JSON: {first['ctx']['error']} at byte {place}", "body", "check the quotes")
        place = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        return said(422, f"{place}: {first['msg']}", place, f"the document of all routes: {DOCUMENT}")

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        # A body that is no text at all arrives here as 400.
        status = 422 if error.status_code == 400 else error.status_code
        answer = said(status, str(error.detail), "body" if status == 422 else "", f"all routes: {DOCUMENT}")
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(StaffaError)
    async def senseless(request: Request, error: StaffaError) -> Response:
        kinds = ((ConflictError, 409), (UnknownTrialError, 404), (ConfigError, 422))
        status = next((code for kind, code in kinds if isinstance(error, kind)), 409)
        match = FIELD.match(error.message)
        return said(status, error.message, match[1] if match else "", error.hint)

    @app.exception_handler(OSError)
    async def broken(request: Request, error: OSError) -> Response:
        if error.errno not in DISK:
            raise error
        return said(507, f"the journal cannot be written: {error.strerror}", "", "nothing was recorded; say it again")
