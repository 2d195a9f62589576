"""What one client of the load benchmark does; Locust runs as many of it as it is told."""

import os
import random
from pathlib import Path

from locust import FastHttpUser, task
from urllib3 import encode_multipart_formdata

PICTURES = [path.read_bytes() for path in sorted(Path(os.environ["LOAD_PICTURES"]).iterdir())]
FILTER = dict(pair.split("=", 1) for pair in os.environ.get("LOAD_FIELDS", "").split("&") if pair)


class Client(FastHttpUser):
    """Sends one picture after the other, the next as soon as the answer is there."""

    network_timeout = connection_timeout = 60.0

    def on_start(self) -> None:
        """Begin at a picture of its own, so that clients do not march in step."""
        self.next = random.randrange(len(PICTURES))  # noqa: S311

    @task
    def search(self) -> None:
        """Search by a picture; anything but ten neighbours is a failure."""
        picture = PICTURES[self.next % len(PICTURES)]
        self.next += 1
        body, kind = encode_multipart_formdata(
            {"picture": ("query.jpg", picture, "image/jpeg"), "k": "10", **FILTER}
        )
        with self.client.post(
            "/v1/search", data=body, headers={"Content-Type": kind}, catch_response=True
        ) as answer:
            if answer.status_code != 200 or len(answer.json()["neighbours"]) != 10:
                answer.failure(f"{answer.status_code}: {answer.text[:100]}")
