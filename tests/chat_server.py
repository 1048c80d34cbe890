"""A server with /v1/chat/completions that does to each request what a test wants."""

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class ChatServer:
    """Answers every request by `behave`, and remembers what it was asked."""

    behave: object
    """Called with the message and how often it was asked before; returns what `reply` takes, or None to hang up."""
    url: str = ""
    requests: list = field(default_factory=list)
    """(time, message, whole body, headers) of each request."""
    now: int = 0
    most: int = 0
    """The most requests that were under way at the same time."""
    lock: object = field(default_factory=threading.Lock)

    @property
    def asked(self):
        """The messages, in the order in which they came."""
        return [message for _, message, _, _ in self.requests]


def completion(text, finish="stop"):
    """A whole answer, as servers send it."""
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]})


def reply(text="[]", *, status=200, finish="stop", body=None, wait=0.0, headers=()):
    """What `behave` returns: an answer with a text, or with a whole body of its own."""
    body = completion(text, finish) if body is None else body
    return status, body if isinstance(body, bytes) else body.encode(), wait, dict(headers)


@contextmanager
def chat_server(behave):
    """Run a server in a thread while the block runs."""
    server = ChatServer(behave)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            message = body["messages"][-1]["content"]
            with server.lock:
                before = server.asked.count(message)
                server.requests.append((time.monotonic(), message, body, dict(self.headers)))
                server.now += 1
                server.most = max(server.most, server.now)
            try:
                done = server.behave(message, before)
                if self.path != "/v1/chat/completions":
                    done = reply(status=404, body="no such page")
                if done is None:
                    self.close_connection = True
                    self.connection.close()
                    return
                status, content, wait, headers = done
                time.sleep(wait)
            finally:
                with server.lock:
                    server.now -= 1
            try:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                self.close_connection = True

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    listener.handle_error = lambda *_: None
    server.url = f"http://127.0.0.1:{listener.server_port}/v1"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
