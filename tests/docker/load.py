"""Clients that keep asking until the service is gone. Standard input is the body; a JSON object of counts comes out.

`answered` are those with 200, `refused` those with 429 or 503 and those that reached a closed port. A connection that
ends without an answer is `lost`.
"""

import http.client
import json
import sys
import threading
import time

CLIENTS = 6
SECONDS = 60

body = sys.stdin.buffer.read()
counts = {"answered": 0, "refused": 0, "lost": 0, "other": []}
lock = threading.Lock()
gone = threading.Event()


def count(name: str) -> None:
    with lock:
        counts[name] += 1


def client() -> None:
    deadline = time.monotonic() + SECONDS
    while not gone.is_set() and time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", 5001, timeout=60)
        try:
            connection.connect()
        except OSError:
            gone.set()  # the port is closed: the end was announced, and nothing was taken
            return
        try:
            connection.request("POST", "/score", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
        except (ConnectionResetError, BrokenPipeError):
            # Accepted by the kernel after the service had closed its port: nobody has read a byte of it.
            count("refused")
            gone.set()
            return
        except (OSError, http.client.HTTPException) as error:
            count("lost")
            counts["other"].append(repr(error))
            return
        finally:
            connection.close()
        if answer.status == 200:
            count("answered")
            if counts["answered"] == CLIENTS:
                print("under load", file=sys.stderr, flush=True)
        elif answer.status in (429, 503):
            count("refused")
        else:
            counts["other"].append(f"{answer.status}: {text[:200]}")


threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
json.dump(counts, sys.stdout)
