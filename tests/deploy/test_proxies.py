"""The proxies' configurations, read and run by the proxies themselves."""

import contextlib
import re
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deploy.shipped import DEPLOY, program
from outbound.api.server import KEEPALIVE_SECONDS
from processes import free_port, wait_until

NGINX, CADDY = DEPLOY / "nginx/outbound.conf", DEPLOY / "caddy/Caddyfile"


class Backend(BaseHTTPRequestHandler):
    """Stands for `outbound web`; remembers which requests reached it."""

    def do_GET(self):
        if not self.path.startswith("/health"):
            self.server.seen.append(self.path)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815 - the name that http.server calls

    def log_message(self, *_):
        pass


@pytest.fixture
def backend():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    server.seen = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def nginx_files(directory, port, web_ports):
    """The shipped part within a whole; names of hosts would have to resolve, addresses do not."""
    servers = "\n".join(f"server 127.0.0.1:{p} max_fails=0;" for p in web_ports)
    text, found = re.subn(
        r"^    server 127\.0\.0\.1:8000 max_fails=0;$",
        servers,
        NGINX.read_text(),
        flags=re.MULTILINE,
    )
    assert found == 1
    assert "listen 80;" in text
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
    temporary = "".join(
        f"{name}_temp_path {directory}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"daemon off; pid {directory}/pid; error_log stderr warn; worker_processes 1;"
        f"events {{ worker_connections 64; }} http {{ access_log off; {temporary} {text} }}"
    )
    return directory / "nginx.conf"


def caddy_files(directory, caddy):
    """The shipped file; Debian 12's Caddy knows the buffer only by its older name."""
    text = CADDY.read_text()
    version = subprocess.run([caddy, "version"], capture_output=True, text=True).stdout
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < (2, 7):
        assert "request_buffers 65MiB" in text
        text = text.replace("request_buffers 65MiB", "buffer_requests")
    # Its administration has one port for all Caddies of a machine.
    text = text.replace("{\n\tservers", "{\n\tadmin off\n\tservers", 1)
    (directory / "Caddyfile").write_text(text)
    return directory / "Caddyfile"


def caddy_environment(directory, port, web_ports):
    return {
        "PUBLIC_BASE_URL": f"http://127.0.0.1:{port}",
        "WEB": " ".join(f"127.0.0.1:{p}" for p in web_ports),
        "HOME": str(directory),
        "XDG_DATA_HOME": str(directory),
        "XDG_CONFIG_HOME": str(directory),
    }


def nginx_says(directory, text_of=lambda text: text):
    nginx = program("nginx", "nginx-light")
    whole = nginx_files(directory, free_port(), [8000])
    whole.write_text(text_of(whole.read_text()))
    check = [nginx, "-t", "-q", "-c", str(whole), "-e", "stderr"]
    return subprocess.run(check, capture_output=True, text=True, timeout=30)


def caddy_says(directory, text_of=lambda text: text):
    caddy = program("caddy", "caddy")
    file = caddy_files(directory, caddy)
    file.write_text(text_of(file.read_text()))
    return subprocess.run(
        [caddy, "validate", "--adapter", "caddyfile", "--config", str(file)],
        env=caddy_environment(directory, free_port(), [8000]),
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize("says", [nginx_says, caddy_says])
def test_the_proxy_takes_its_configuration(says, tmp_path):
    done = says(tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("says", "ours", "wrong"),
    [
        (nginx_says, "proxy_request_buffering", "proxy_request_bufering"),
        (caddy_says, "lb_try_duration", "lb_try_durations"),
    ],
)
def test_a_mistake_in_the_configuration_is_seen(says, ours, wrong, tmp_path):
    assert says(tmp_path, lambda text: text.replace(ours, wrong)).returncode != 0


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def running(command, port, environment=None):
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: listens(port), 30, command[0])
        yield port
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def nginx(directory, web_ports):
    path, port = program("nginx", "nginx-light"), free_port()
    whole = nginx_files(directory, port, web_ports)
    with running([path, "-c", str(whole), "-e", "stderr"], port):
        yield port


@contextlib.contextmanager
def caddy(directory, web_ports):
    path, port = program("caddy", "caddy"), free_port()
    command = [path, "run", "--adapter", "caddyfile", "--config", str(caddy_files(directory, path))]
    with running(command, port, caddy_environment(directory, port, web_ports)):
        yield port


def ask(port, path):
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        client.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
        )
        return client.makefile("rb").readline().split()[1]


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_a_request_reaches_web_only_when_all_of_it_is_there(proxy, tmp_path, backend):
    with (
        proxy(tmp_path, [backend.server_port]) as port,
        socket.create_connection(("127.0.0.1", port), 20) as slow,
    ):
        head = "POST /slow HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 40000\r\n\r\n"
        slow.sendall(head.encode() + b"x" * 39_999)
        # Later requests are through, so it is not for want of time that this one is not.
        for n in range(20):
            assert ask(port, f"/{n}") == b"200"
        assert "/slow" not in backend.seen
        slow.sendall(b"x")
        wait_until(lambda: "/slow" in backend.seen, 20, "the whole request to get through")


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_with_one_of_two_web_processes_away_every_request_is_answered(proxy, tmp_path, backend):
    with proxy(tmp_path, [free_port(), backend.server_port]) as port:
        assert [ask(port, f"/{n}") for n in range(10)] == [b"200"] * 10


@pytest.mark.parametrize(("file", "setting"), [(NGINX, "keepalive_timeout"), (CADDY, "keepalive")])
def test_the_proxy_lets_go_of_an_idle_connection_well_before_web_does(file, setting):
    # At the same time, a request crosses the end of its connection and is lost.
    (seconds,) = re.findall(rf"^\s*{setting} (\d+)s;?$", file.read_text(), re.MULTILINE)
    assert int(seconds) <= KEEPALIVE_SECONDS - 10
