#!/usr/bin/env python3
"""A stand-in for the seed's known local client: what ours must answer without being told whom it talks to.

It owns that client's way of speaking: one object in one send() without a newline, reads of 2,048 bytes until a
chunk holds "}\\n", and everything read parsed as ONE JSON value (so a stray line beside the answer is an error
here, as it hung the original). Each thread has a connection of its own and asks one request after the other; the
script named by --script must exit with the number in params {"exit": N}. It never retries and never waits past
--deadline seconds. Prints a JSON summary; exits 0 if every status and id was the one of its own request, else 1.
"""

import argparse
import json
import socket
import sys
import threading
import time
import uuid

CHUNK_BYTES = 2048


def connect(where, until):
    """Connects to a Unix socket's path, or to HOST:PORT where the daemon is in a container."""
    if where.startswith("/"):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(max(0.001, until - time.monotonic()))
        connection.connect(where)
        return connection
    host, port = where.rsplit(":", 1)
    return socket.create_connection((host, int(port)), max(0.001, until - time.monotonic()))


def ask(connection, request, until):
    """One request, one answer, the way the seed's client does it."""
    connection.send(json.dumps(request).encode())
    heard = b""
    while True:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no answer in time, heard {heard!r}")
        connection.settimeout(left)
        chunk = connection.recv(CHUNK_BYTES)
        if not chunk:
            raise ConnectionError(f"the daemon closed the connection, heard {heard!r}")
        heard += chunk
        if b"}\n" in chunk:
            return json.loads(heard)


def converse(options, thread, until, problems, done):
    """All requests of one thread, on its own connection."""
    try:
        with connect(options.socket, until) as connection:
            for number in range(options.requests):
                request = {
                    "name": options.script,
                    "id": str(uuid.uuid4()),
                    "params": {"exit": (thread * 31 + number) % 100},
                }
                wanted = {"status": request["params"]["exit"], "id": request["id"]}
                answer = ask(connection, request, until)
                if answer != wanted:
                    problems.append(f"thread {thread}, request {number}: wanted {wanted}, got {answer}")
                done.append(request["id"])
    except (OSError, ValueError) as trouble:
        problems.append(f"thread {thread}: {type(trouble).__name__}: {trouble}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--socket", required=True, help="path of the daemon's Unix socket, or HOST:PORT")
    parser.add_argument("--script", default="exit", help="script that exits with the number in its params")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--requests", type=int, default=25, help="requests of each thread")
    parser.add_argument("--deadline", type=float, default=60.0, help="seconds for everything")
    options = parser.parse_args()

    began = time.monotonic()
    until = began + options.deadline
    problems, done = [], []
    threads = [
        threading.Thread(target=converse, args=(options, number, until, problems, done), daemon=True)
        for number in range(options.threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until + 1 - time.monotonic()))
        if thread.is_alive():
            problems.append("a thread is still busy past the deadline")

    wanted = options.threads * options.requests
    if len(done) != wanted and not problems:
        problems.append(f"{len(done)} answers of {wanted}")
    summary = {
        "threads": options.threads,
        "requests": wanted,
        "answers": len(done),
        "problems": problems,
        "seconds": round(time.monotonic() - began, 3),
    }
    print(json.dumps(summary))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
