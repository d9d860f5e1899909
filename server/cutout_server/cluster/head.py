"""`python -m cutout_server.cluster.head`: a Ray cluster of this machine, for as long as its input is held open.

A process of its own: Ray forks to begin others, which a server that speaks gRPC must not do.
"""

import sys

import ray

ADDRESS = "address "


def main() -> None:
    """Tells where the cluster is, once it is there."""
    ray.init("local", include_dashboard=False, log_to_driver=False, configure_logging=False)
    sys.stdout.write(f"{ADDRESS}{ray.get_runtime_context().gcs_address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main()
