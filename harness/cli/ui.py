"""Open the MLflow UI on the recorded runs, reachable from this machine only (127.0.0.1).

If MLFLOW_TRACKING_URI names a server, the UI is that server's page, whose address is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

from harness import tracking
from harness.cli.console import console
from harness.errors import TrackerError, UsageError

START_SECONDS = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, default=5000, metavar="P", help="first port to try (default: 5000)")


def main(args: argparse.Namespace) -> int:
    uri = tracking.tracking_uri()
    if uri.startswith("http"):
        tracking.experiments(uri)  # raises if the server does not respond
        console.print(f"The runs are on the tracking server: {tracking.address()}")
        return 0
    if not 1 <= args.port <= 65_535:
        raise UsageError(f"There is no port {args.port}.", allowed="Allowed: 1 to 65535.")
    found = tracking.experiments(uri)
    port = _free_port(args.port)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",  # by default it starts four, each of which takes as long to start as all of this
    ]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    console.print("starting the MLflow UI, which takes some seconds ...")
    server = subprocess.Popen(
        command, env={**os.environ, **quiet}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is ended, too
    try:
        _wait(server, port)
        address = f"http://127.0.0.1:{port}"
        console.print(f"MLflow UI: {address}   (Ctrl-C ends it)", style="bold")
        for name, number in found.items():
            console.print(f"  {name:<20} {address}/#/experiments/{number}/runs?workflowType=machine_learning")
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        server.wait()


def _free_port(first: int) -> int:
    for port in range(first, first + 50):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise UsageError(f"No port from {first} to {first + 49} is free.", hint="Choose another with --port.")


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the server accepts connections, so that the printed address works.

    Raises:
        TrackerError: the server did not start in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TrackerError(
        "The MLflow UI did not start.",
        hint=f"To see why, run mlflow ui --backend-store-uri {tracking.address()}",
    )
