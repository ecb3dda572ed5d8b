import http.server
import threading

import pytest


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder; `requested` lists the paths asked for, `promise` adds to the length that is announced."""

    def __init__(self, folder):
        self.requested, self.promise = [], 0

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=str(folder))

            def log_message(self, *_):
                self.server.requested.append(self.path)

            def send_header(self, name, value):
                super().send_header(name, str(int(value) + self.server.promise) if name == 'Content-Length' else value)

        super().__init__(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server_port}'


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves the test's folder; what is downloaded lies in its folder `cache/hub/checkpoints`."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    monkeypatch.setenv('no_proxy', '*')
    with Server(tmp_path) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
