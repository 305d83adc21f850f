#!/usr/bin/env python3
"""A version 2 peer written from docs/protocol.md and nothing else: that the page is enough is what it shows.

It dials --server for ever and runs the executable files in --scripts: direct runs and queued ones, with output within its
credit, CANCEL and timeouts. What must be on disk (its instance, its epoch, what became of every attempt) is in --state, a line
of JSON for each change, synced before it is said. SIGUSR1 cuts its link, and it dials again. It asks for nothing itself, keeps
output in memory only, and never forgets an attempt. Every frame is printed as a line, `<` as heard and `>` as said.
"""

import argparse
import base64
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid

OUTPUT_COST_BYTES = 64
OUTPUT_FRAME_BYTES = 16 * 1024


def log(text):
    print(text, flush=True)


class WebSocket:
    """RFC 6455 as a client speaks it, as much as is needed."""

    def __init__(self, host, port):
        self.lock = threading.Lock()
        self.socket = socket.create_connection((host, port), 10)
        key = base64.b64encode(os.urandom(16)).decode()
        request = [
            "GET / HTTP/1.1", f"Host: {host}:{port}", "Upgrade: websocket", "Connection: Upgrade",
            "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", "Ws-Daemon: 2", "", "",
        ]
        self.socket.sendall("\r\n".join(request).encode())
        self.stream = self.socket.makefile("rb")
        status = self.stream.readline().decode()
        headers = {}
        while (line := self.stream.readline().decode().strip()):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if " 101 " not in status or headers.get("ws-daemon") != "2":
            raise ConnectionError(f"no version 2 link: {status.strip()}")
        self.socket.settimeout(None)

    def frame(self, opcode, payload):
        mask = os.urandom(4)
        head = bytes([0x80 | opcode])
        length = len(payload)
        if length < 126:
            head += bytes([0x80 | length])
        elif length < 1 << 16:
            head += bytes([0x80 | 126]) + struct.pack(">H", length)
        else:
            head += bytes([0x80 | 127]) + struct.pack(">Q", length)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
        with self.lock:
            self.socket.sendall(head + mask + masked)

    def read(self, length):
        data = self.stream.read(length)
        if data is None or len(data) < length:
            raise ConnectionError("the connection ended")
        return data

    def text(self):
        """The next text; pings are answered on the way."""
        whole = b""
        while True:
            first, second = self.read(2)
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack(">H", self.read(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self.read(8))
            payload, opcode = self.read(length), first & 0x0F
            if opcode == 9:
                self.frame(10, payload)
            elif opcode == 8:
                raise ConnectionError(f"closed: {payload[:2].hex()} {payload[2:].decode()}")
            elif opcode in (0, 1, 2):
                whole += payload
                if first & 0x80:
                    return whole.decode()

    def cut(self):
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class State:
    """What must outlive this process."""

    def __init__(self, path):
        self.lock = threading.Lock()
        self.instance, self.epoch, self.attempts = None, 0, {}
        if os.path.exists(path):
            with open(path, encoding="utf-8") as lines:
                for line in lines:
                    self.apply(json.loads(line))
        self.file = open(path, "a", encoding="utf-8")
        if self.instance is None:
            self.write({"instance": str(uuid.uuid4())})

    def apply(self, change):
        self.instance = change.get("instance", self.instance)
        self.epoch = change.get("epoch", self.epoch)
        if "key" in change:
            self.attempts[tuple(change["key"])] = change

    def write(self, change):
        with self.lock:
            self.apply(change)
            self.file.write(json.dumps(change) + "\n")
            self.file.flush()
            os.fsync(self.file.fileno())

    def claim(self, key, new):
        """What is known of an attempt, or None: then it is written down as `new`."""
        with self.lock:
            known = self.attempts.get(key)
        if known is None:
            self.write({"key": list(key), **new})
        return known


class Run:
    """One run: its process, its output so far, and its credit."""

    def __init__(self, peer, link, frame):
        self.peer, self.link, self.frame = peer, link, frame
        self.id, self.attempt = frame["id"], frame.get("attempt")
        self.key = (link.asker, self.id, self.attempt) if frame.get("queue") else None
        self.changed = threading.Condition()
        self.credit = frame.get("credit", 0)
        self.output = {"stdout": b"", "stderr": b""}
        self.told = dict.fromkeys(self.output, 0)
        self.process, self.stopped, self.ended = None, None, False

    def say(self, code, **data):
        """By the link that it came by; of a queued run, by the one that there is."""
        link = self.peer.link if self.key else self.link
        if link:
            link.say(code, {"id": self.id, **data})

    def by(self, link, frame):
        """It was offered again: its output goes by this link from here on."""
        with self.changed:
            self.link, self.credit = link, frame.get("credit", 0)
            self.told = {stream: frame.get("have", {}).get(stream, 0) for stream in self.output}
            self.changed.notify_all()
        self.say("EVENT", event="delivered")

    def give(self, credit):
        with self.changed:
            self.credit += credit
            self.changed.notify_all()

    def stop(self, why):
        self.stopped = self.stopped or why
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)

    def run(self):
        status = self.outcome()
        with self.changed:
            self.ended = True
        if self.frame.get("output") == "stream":
            while self.tell():
                with self.changed:
                    self.changed.wait(0.05)
        if self.key:
            status["attempt"] = self.attempt
            self.peer.state.write({"key": list(self.key), "state": "finished", "status": status})
        self.peer.over(self)
        self.say("STATUS", **status)

    def outcome(self):
        name = self.frame["name"]
        path = os.path.realpath(os.path.join(self.peer.scripts, name))
        if not path.startswith(self.peer.scripts + os.sep) or not os.path.isfile(path):
            return {"status": -1, "error": "not_found", "message": f"no script {name}"}
        if self.key or self.frame.get("events"):
            self.say("EVENT", event="delivered")
        caller = self.frame.get("caller")
        env = {**os.environ, "WSDAEMON_RUN": self.id, "WSDAEMON_NAME": name}
        if "caller" in self.frame:
            env["WSDAEMON_ID"] = caller if isinstance(caller, str) else json.dumps(caller, separators=(",", ":"))
        argument = json.dumps(self.frame.get("params"), separators=(",", ":"), ensure_ascii=False)
        began = time.monotonic()
        self.process = subprocess.Popen(
            [path, argument], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, env=env, cwd=self.peer.scripts,
        )
        if self.stopped:
            self.stop(self.stopped)
        if self.key or self.frame.get("events"):
            self.say("EVENT", event="started")
        if self.frame.get("timeout"):
            timer = threading.Timer(self.frame["timeout"] / 1000, self.stop, ["timed_out"])
            timer.daemon = True
            timer.start()
        self.drain()
        code = self.process.wait()
        data = {"ms": int((time.monotonic() - began) * 1000)}
        if self.stopped and code < 0:
            return {"status": -4, "error": self.stopped, "message": "stopped", "signal": signal.Signals(-code).name, **data}
        if code < 0:
            return {"status": 128 - code, "signal": signal.Signals(-code).name, **data}
        if self.frame.get("output") == "tail":
            data.update({stream: text.decode(errors="replace") for stream, text in self.output.items()})
        return {"status": code, **data}

    def drain(self):
        pipes = {self.process.stdout: "stdout", self.process.stderr: "stderr"}
        while pipes:
            for pipe in select.select(list(pipes), [], [], 0.05)[0]:
                data = os.read(pipe.fileno(), 65536)
                if data:
                    self.output[pipes[pipe]] += data
                else:
                    del pipes[pipe]
            if self.frame.get("output") == "stream":
                self.tell()

    def tell(self):
        """Says what may be said of the output; whether some is left that anybody waits for."""
        for stream, whole in self.output.items():
            while self.told[stream] < len(whole):
                if self.peer.link is not self.link:
                    return bool(self.key)
                with self.changed:
                    room = min(self.credit, OUTPUT_FRAME_BYTES)
                    if room < OUTPUT_COST_BYTES:
                        return True
                    at = self.told[stream]
                    data, taken, encoding = piece(whole[at : at + room // 4 * 3], self.ended)
                    if taken == 0:
                        break
                    self.credit -= max(OUTPUT_COST_BYTES, len(data.encode()))
                    self.told[stream] = at + taken
                self.say("OUTPUT", stream=stream, offset=at, data=data, **encoding)
        return False


def piece(data, the_end):
    """Bytes as text that splits no character, else in base 64; and how many were taken."""
    try:
        return data.decode(), len(data), {}
    except UnicodeDecodeError as error:
        if error.start > 0:
            return data[: error.start].decode(), error.start, {}
        if error.reason == "unexpected end of data" and not the_end:
            return "", 0, {}
        return base64.b64encode(data).decode(), len(data), {"encoding": "base64"}


class Link:
    """One link, from HELLO on."""

    def __init__(self, peer):
        self.peer = peer
        self.socket = WebSocket(*peer.server)
        state = peer.state
        self.say("HELLO", {
            "name": peer.name, "configured": True, "instance": state.instance, "epoch": state.epoch, "version": "0.2.0",
            "tags": [], "capacity": 4, "features": ["output", "events", "queue"], "former": [],
        })
        hello = self.hear()
        if hello["params"]["code"] != "HELLO":
            raise ConnectionError("the first frame is no HELLO")
        self.asker = hello["params"]["data"]["instance"]

    def say(self, code, data):
        text = json.dumps({"name": "&cmd", "params": {"code": code, "data": data}}, separators=(",", ":"))
        log(f"> {text}")
        try:
            self.socket.frame(1, text.encode())
        except OSError:
            pass  # The reader sees the end too.

    def hear(self):
        text = self.socket.text()
        log(f"< {text}")
        return json.loads(text)


class Peer:
    """Dials, hears, and has the runs."""

    def __init__(self, options):
        host, _, port = options.server.rpartition(":")
        self.server, self.name = (host, int(port)), options.name
        self.scripts = os.path.realpath(options.scripts)
        self.state, self.link, self.runs, self.lock = State(options.state), None, {}, threading.Lock()
        # Whether a script of these had begun is not known: it may have.
        for key, attempt in list(self.state.attempts.items()):
            if attempt["state"] == "claimed":
                status = {"status": -5, "error": "interrupted", "message": "it was killed meanwhile", "attempt": key[2]}
                self.state.write({"key": list(key), "state": "finished", "status": status})

    def serve(self):
        while True:
            self.state.write({"epoch": self.state.epoch + 1})
            try:
                link = Link(self)
                self.link = link
                log("up")
                self.say_again(link)
                while True:
                    self.heard(link, link.hear())
            except (OSError, ValueError) as error:
                self.link = None
                log(f"down: {error}")
                time.sleep(0.1)

    def cut(self):
        if self.link:
            self.link.socket.cut()

    def say_again(self, link):
        """What this asker has not acknowledged."""
        for (asker, run, _), attempt in list(self.state.attempts.items()):
            if asker == link.asker and attempt["state"] in ("finished", "refused"):
                link.say("STATUS", {"id": run, **attempt["status"]})

    def heard(self, link, frame):
        if frame["name"] != "&cmd":
            return self.asked(link, frame)
        if frame.get("local"):
            return None
        code, data = frame["params"]["code"], frame["params"].get("data") or {}
        if code == "PING":
            link.say("STATUS", {"status": 0, "id": frame["id"]})
        elif code == "CREDIT":
            for run in self.find(data["id"]):
                run.give(data["bytes"])
        elif code == "CANCEL":
            self.cancelled(link, data)
        elif code == "ACK":
            key = (link.asker, data["id"], data["attempt"])
            if self.state.attempts.get(key, {}).get("state") in ("finished", "refused"):
                self.state.write({"key": list(key), "state": "acknowledged"})
        elif "id" in frame:
            link.say("STATUS", {"status": -3, "id": frame["id"], "error": "unknown_command", "message": f"no {code} here"})
        return None

    def find(self, run, attempt=None):
        with self.lock:
            return [found for found in self.runs.values() if found.id == run and attempt in (None, found.attempt)]

    def asked(self, link, frame):
        run = Run(self, link, frame)
        if run.key:
            known = self.state.claim(run.key, {"state": "claimed"})
            if known:
                for going in self.find(run.id, run.attempt):
                    going.by(link, frame)
                if known["state"] in ("finished", "refused"):
                    link.say("STATUS", {"id": run.id, **known["status"]})
                return
        with self.lock:
            self.runs[run.key or id(run)] = run
        threading.Thread(target=run.run, daemon=True).start()

    def cancelled(self, link, data):
        attempt = data.get("attempt")
        found = self.find(data["id"], attempt)
        for run in found:
            run.stop("cancelled")
        if not found and attempt is not None:
            key = (link.asker, data["id"], attempt)
            status = {"status": -4, "error": "cancelled", "message": "it did not run", "attempt": attempt, "refused": True}
            known = self.state.claim(key, {"state": "refused", "status": status})
            if not known:
                link.say("STATUS", {"id": data["id"], **status})

    def over(self, run):
        with self.lock:
            self.runs.pop(run.key or id(run), None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option in ("server", "state", "scripts", "name"):
        parser.add_argument(f"--{option}", required=True)
    peer = Peer(parser.parse_args())
    signal.signal(signal.SIGUSR1, lambda *_: peer.cut())
    threading.Thread(target=peer.serve, daemon=True).start()
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
