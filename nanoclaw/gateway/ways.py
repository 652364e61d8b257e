"""All that a run has of the outside: the model, and the hosts that its group may reach."""

from pathlib import Path

from nanoclaw.gateway.egress import Egress
from nanoclaw.gateway.model import ModelGateway


class Ways:
    """The Gateway of the real host: two sockets in one folder."""

    def __init__(self, model: ModelGateway, egress: Egress) -> None:
        self._model = model
        self._egress = egress

    async def open(self, run_id: str, folder: Path, *, search: bool) -> None:
        """Listen on both. Raises GatewayError."""
        await self._model.open(run_id, folder, search=search)
        try:
            await self._egress.open(run_id, folder)
        except BaseException:
            await self._model.close(run_id)
            raise

    async def close(self, run_id: str) -> None:
        """Stop listening and break off what is in flight; a run without sockets is no error."""
        await self._egress.close(run_id)
        await self._model.close(run_id)

    async def aclose(self) -> None:
        """Close every run."""
        await self._egress.aclose()
        await self._model.aclose()
