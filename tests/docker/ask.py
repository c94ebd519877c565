"""One request to the service on this machine: {"path", "body"} as JSON comes in, {"status", "body"} goes out."""

import json
import sys
import urllib.error
import urllib.request

asked = json.load(sys.stdin)
request = urllib.request.Request(f"http://127.0.0.1:5001{asked['path']}")
if asked["body"] is not None:
    request.data = json.dumps(asked["body"]).encode()
    request.add_header("Content-Type", "application/json")
try:
    with urllib.request.urlopen(request, timeout=60) as answer:
        json.dump({"status": answer.status, "body": answer.read().decode()}, sys.stdout)
except urllib.error.HTTPError as error:
    json.dump({"status": error.code, "body": error.read().decode()}, sys.stdout)
