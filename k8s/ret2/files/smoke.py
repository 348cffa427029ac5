"""What `helm test` runs in a pod of the app's image: ready, closed to strangers, and a text goes through to the model and back."""

import json
import os
import sys
import urllib.error
import urllib.request

API, KEY, ANONYMOUS = os.environ["RET2_URL"], os.environ.get("RET2_API_KEY"), os.environ.get("ANONYMOUS") == "true"


def call(path, body=None, key=None):
    request = urllib.request.Request(API + path, None if body is None else json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    if key:
        request.add_header("Authorization", "Bearer " + key)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def expect(wanted, answer, what):
    if answer[0] != wanted:
        raise SystemExit(f"{what}: {answer[0]}, expected {wanted}: {answer[1]}")
    sys.stdout.write(f"{what}: {answer[0]}\n")


expect(200, call("/readyz"), "ready")
if not ANONYMOUS:
    expect(401, call("/collections"), "without a key")
if KEY or ANONYMOUS:
    answer = call("/encode", {"role": "query", "inputs": [{"text": "a red flag with a white cross"}]}, KEY)
    expect(200, answer, "encode")
    length = len(answer[1]["results"][0]["embedding"])
    if length != answer[1]["dimensions"] or not length:
        raise SystemExit(f"the embedding has {length} numbers, the model {answer[1]['dimensions']}")
