"""`lab gateway`: an OpenAI-compatible door in front of the release that an alias points at.

    settings = GatewaySettings(port=8090, keys=Path("keys.yaml"), processes=4)
    run(settings)                              # until SIGTERM, which drains

Each request resolves the alias, passes the input guards, is answered by the release's engine through the output guards, and is in
the request log before its last byte is sent.
"""

from lab.ops.gateway.running import run
from lab.ops.gateway.settings import GatewaySettings
from lab.ops.requests.traced import trace_id

__all__ = ["GatewaySettings", "run", "trace_id"]
