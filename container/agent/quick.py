"""Makes the import of the SDK three times shorter in the container; every cold start waits for it."""

import importlib
import sys
from types import ModuleType
from typing import Any

import pydantic

# Names that mcp imports and the SDK never uses; with them come web servers and clients.
_UNUSED = {"mcp.server.fastmcp": "FastMCP", "mcp.client.session_group": "ClientSessionGroup"}
# Imported at once, used at the first tool call or never.
_LATER = ("jsonschema", "httpx")


class _Later(ModuleType):
    """Stands for a module until something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def prepare() -> None:
    """Call before claude_agent_sdk is imported; the lock pins the versions that this was tried with."""
    for module, name in _UNUSED.items():
        sys.modules[module] = ModuleType(module)
        setattr(sys.modules[module], name, object)
    for module in _LATER:
        sys.modules[module] = _Later(module)
    # mcp's hundred models are built when they are used, which most never are.
    pydantic.BaseModel.model_config["defer_build"] = True
