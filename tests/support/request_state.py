"""A middleware in the place of the request log: it gives each request its id."""

from starlette.types import ASGIApp, Receive, Scope, Send


class WithState:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = {"request_id": "id-1"}
        await self._app(scope, receive, send)
