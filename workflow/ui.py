"""`make ui`: print links to MLflow's pages, then serve them on this machine only."""

import argparse
import os
import sys
from collections.abc import Iterator

from rmlr.study.store import connect, tracking_uri
from rmlr.study.views import links

HOST, STUDIES = "127.0.0.1", "rmlr-"


def lines(client, address: str) -> Iterator[str]:
    """The links of each experiment."""
    found = [one for one in client.search_experiments() if one.name.startswith(STUDIES)]
    for experiment in sorted(found, key=lambda one: one.name):
        yield f"{experiment.name}"
        for what, addresses in links(client, experiment.experiment_id).items():
            for name, where in addresses.items():
                yield f"  {what}, {name}:\n    {address}/{where}"
    if not found:
        yield "There are no runs yet. `make demo` creates some; then call this again."


def main() -> None:
    """Print the links, then run the server."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, default=5000)
    arguments.add_argument("--links", action="store_true", help="print only the links")
    chosen = arguments.parse_args()
    uri = tracking_uri()
    address = uri if uri.startswith("http") else f"http://{HOST}:{chosen.port}"
    for line in lines(connect(), address.rstrip("/")):
        sys.stdout.write(f"{line}\n")
    if chosen.links or uri.startswith("http"):  # the user's own server has its pages
        return
    sys.stdout.write("The pages are ready in half a minute; Ctrl-C stops the server.\n")
    sys.stdout.flush()
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    server = ["--workers", "1", "--host", HOST, "--port", str(chosen.port), "--backend-store-uri", uri]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", *server])


if __name__ == "__main__":
    main()
