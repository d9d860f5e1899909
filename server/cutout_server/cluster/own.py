"""What Ray finds in its environment, which it looks at when it is imported, in a cluster of this machine alone."""

import os
import secrets


def prepare() -> None:
    """Says what nobody has said otherwise; call it before anything imports Ray."""
    defaults = {
        # Whoever knows the token can run programs here, and nobody else.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Ray tells its makers what it is used for unless it is told not to,
        "RAY_USAGE_STATS_ENABLED": "0",
        # has its workers stand behind all else that a machine does,
        "RAY_worker_niceness": "0",
        # and gives a busy machine half a minute to begin.
        "RAY_gcs_server_port_wait_time_s": "300",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
