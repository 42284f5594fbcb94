"""MLflow's pages of the store, on this machine only, after the links that open them: `make ui`."""

import argparse
import os
import sys
from collections.abc import Iterator

from rmlr.study.store import connect, tracking_uri
from rmlr.study.views import links

HOST, STUDIES = "127.0.0.1", "rmlr-"


def lines(client, address: str) -> Iterator[str]:
    """What there is to open, by experiment."""
    found = [one for one in client.search_experiments() if one.name.startswith(STUDIES)]
    for experiment in sorted(found, key=lambda one: one.name):
        yield f"{experiment.name}"
        for what, addresses in links(client, experiment.experiment_id).items():
            for name, where in addresses.items():
                yield f"  {what}, {name}:\n    {address}/{where}"
    if not found:
        yield "There are no runs yet. `make demo` makes some; call this again then."


def main() -> None:
    """Print the links, then become the server."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, default=5000)
    arguments.add_argument("--links", action="store_true", help="print the links alone")
    chosen = arguments.parse_args()
    uri = tracking_uri()
    address = uri if uri.startswith("http") else f"http://{HOST}:{chosen.port}"
    for line in lines(connect(), address.rstrip("/")):
        sys.stdout.write(f"{line}\n")
    if chosen.links or uri.startswith("http"):  # a server of the user's own has its pages
        return
    sys.stdout.write("The pages answer in half a minute; Ctrl-C stops them.\n")
    sys.stdout.flush()
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    server = ["--workers", "1", "--host", HOST, "--port", str(chosen.port), "--backend-store-uri", uri]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", *server])


if __name__ == "__main__":
    main()
