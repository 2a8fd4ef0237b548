"""Runs the server until a signal ends it.

Owns uvicorn's settings, the two threads, and the end. Does not know routes.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable

import uvicorn

from ..errors import OptionError
from .app import Server, make_app
from .models import Models
from .scheduler import Scheduler
from .settings import Access, Settings

# Seconds that answers under way get to end after Ctrl-C, and connections after them.
DRAIN = 1.0
# Seconds without a request after which a connection is closed: more than those after
# which clients stop using one, so that no request meets a closing connection.
KEEP_OPEN = 75


class Uvicorn(uvicorn.Server):
    """uvicorn, which ends the answers under way when a signal comes.

    Args:
        config: uvicorn's settings.
        scheduler: Answers requests.
        on_ready: Called when requests are accepted.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        scheduler: Scheduler,
        on_ready: Callable[[], None],
    ):
        super().__init__(config)
        self.scheduler, self.on_ready = scheduler, on_ready

    async def startup(self, sockets=None):
        """Accept requests, and say so."""
        await super().startup(sockets)
        self.on_ready()

    def handle_exit(self, sig, frame):
        """End: refuse further requests and cancel the present ones."""
        self.scheduler.stop(0.0)
        super().handle_exit(sig, frame)


def bind(access: Access) -> socket.socket:
    """A socket that listens where the settings say.

    Raises:
        OptionError: The address is in use, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in access.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((access.host, access.port))
    except OSError as error:
        sock.close()
        raise OptionError(
            f"The server cannot listen on {access.host}:{access.port}: "
            f"{error.strerror or error}.",
            "Choose another --port or --host.",
        ) from None
    sock.listen(128)
    sock.set_inheritable(True)
    return sock


def make_server(
    models: Models, settings: Settings, on_ready: Callable[[], None]
) -> Uvicorn:
    """A server, and its model's thread, which is started.

    Args:
        models: The served models.
        settings: The server's settings.
        on_ready: Called when requests are accepted.
    """
    scheduler = Scheduler(models, settings)
    config = uvicorn.Config(
        make_app(Server(models, scheduler, settings)),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(DRAIN),
        timeout_keep_alive=KEEP_OPEN,
        http="h11",
        ws="none",
        server_header=False,
        lifespan="off",
    )
    scheduler.start()
    return Uvicorn(config, scheduler, on_ready)


def run(
    models: Models,
    settings: Settings,
    sock: socket.socket,
    on_ready: Callable[[], None],
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        models: The served models; the default one is loaded.
        settings: The server's settings.
        sock: From `bind`.
        on_ready: Called when requests are accepted.
    """
    server = make_server(models, settings, on_ready)
    server.run(sockets=[sock])
    if not server.scheduler.stop(DRAIN):
        # A long chunk of a prefill is being computed, and nobody waits for it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
