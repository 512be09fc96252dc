"""A child reads Python's files and no others, reaches no other process, and hands over data that are checked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sklearn
from conftest import is_alive

from harness import confine
from harness.confine import kernel, launch, messages, orders, places, printed
from harness.errors import ChildDied, OutOfMemory

CHECKOUT = Path(__file__).parent.parent
FULL = confine.isolation().level == "full"
needs_kernel = pytest.mark.skipif(not FULL, reason=f"not enforced here: {'; '.join(confine.isolation().missing)}")
needs_limits = pytest.mark.skipif(confine.isolation().level == "none", reason="this system has no limits")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a nursery")


def executed(code: str, **options: Any) -> Any:
    return confine.call("confined:execute", code, **options)


def attempted(code: str, **options: Any) -> str:
    return confine.call("confined:attempt", code, **options)


def died(code: str, **options: Any) -> ChildDied:
    with pytest.raises(ChildDied) as raised:
        executed(code, **options)
    return raised.value


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder that holds a journal, with the data folder elsewhere; return a file of data."""
    (tmp_path / "work" / "mlruns").mkdir(parents=True)
    (tmp_path / "work" / "mlruns" / "events.jsonl").write_text("events")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "labels").write_text("labels")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "labels"


class TestValues:
    def test_result_is_json_value_of_request(self) -> None:
        value = {"a": [1, 2.5, None, True, "ä🙂\n"], "b": {}}
        assert confine.call("confined:echo", value) == value

    def test_child_asks_its_caller(self) -> None:
        code = "result = [ask({'name': 'width', 'low': n}) for n in range(3)]"
        assert executed(code, answer=lambda question: question["low"] * 10) == [0, 10, 20]

    def test_error_of_answer_reaches_caller(self) -> None:
        def refuse(question: Any) -> Any:
            raise KeyError(question)

        with pytest.raises(KeyError, match="width"):
            executed("ask('width')", answer=refuse)

    def test_question_is_garbage_where_none_was_expected(self) -> None:
        assert died("ask('width')").reason == messages.GARBAGE

    def test_two_calls_share_no_state(self) -> None:
        code = (
            "import torch, os; result = hasattr(torch, 'left'), os.listdir()\ntorch.left = 1; open('left', 'w').close()"
        )
        assert executed(code) == executed(code) == [False, []]

    def test_calls_of_threads_do_not_mix(self) -> None:
        results: dict[int, Any] = {}

        def fill(number: int) -> None:
            results[number] = confine.call("confined:echo", number)

        threads = [threading.Thread(target=fill, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {number: number for number in range(6)}

    @needs_linux
    def test_fork_of_caller_calls_too(self) -> None:
        confine.call("confined:echo", 1)
        pid = os.fork()
        if pid == 0:
            os._exit(confine.call("confined:echo", 7))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert confine.call("confined:echo", 2) == 2


@needs_kernel
class TestFiles:
    def test_data_and_journals_are_out_of_reach(self, secret: Path) -> None:
        for file in (secret, Path("mlruns/events.jsonl").absolute(), secret.parent / ".." / "data" / "labels"):
            assert file.exists()
            assert attempted(f"open({str(file)!r})") == "PermissionError"
            assert attempted(f"import os; os.listdir({str(file.parent)!r})") == "PermissionError"

    def test_hidden_folder_among_packages_is_out_of_reach(self) -> None:
        scipy = Path(sklearn.__file__).parent.parent / "scipy"
        code = f"open({str(scipy / 'stats' / '__init__.py')!r})"
        assert attempted(code) == "done"
        assert attempted(code, hidden=[scipy / "stats"]) == "PermissionError"
        assert attempted("import scipy.linalg", hidden=[scipy / "stats"]) == "done"

    @pytest.mark.parametrize(
        "file",
        [
            Path(__file__),
            CHECKOUT / "LEADERBOARD.md",
            CHECKOUT / "harness" / "data" / "digits.py",
            Path(sklearn.__file__).parent / "datasets" / "data" / "digits.csv.gz",
            Path(sklearn.__file__).parent / "datasets" / "data" / "iris.csv",
            Path("/etc/passwd"),
            *(Path(f"/proc/{process}/{name}") for process in ("self", 1) for name in ("environ", "maps", "mem")),
        ],
        ids=str,
    )
    def test_file_is_out_of_reach(self, file: Path) -> None:
        assert attempted(f"open({str(file)!r}, 'rb')") == "PermissionError"

    @pytest.mark.parametrize("name", ["environ", "maps", "mem", "cmdline", "fd/0", "cwd", "root/etc/passwd"])
    def test_process_of_caller_is_out_of_reach(self, name: str) -> None:
        assert attempted(f"open('/proc/{os.getpid()}/{name}', 'rb')") in ("PermissionError", "IsADirectoryError")
        assert attempted(f"import os; open(f'/proc/{{os.getppid()}}/{name}', 'rb')") == "PermissionError"

    def test_digits_of_scikit_learn_do_not_load(self) -> None:
        assert attempted("from sklearn.datasets import load_digits; load_digits()") == "PermissionError"

    @pytest.mark.parametrize(
        "module", ["numpy.linalg", "torch.nn.utils.parametrizations", "scipy.fft", "sklearn.svm", "wave"]
    )
    def test_code_of_packages_is_imported(self, module: str) -> None:
        assert attempted(f"import {module}") == "done"

    def test_network_is_exported(self) -> None:
        code = """
import torch
batch = {0: torch.export.Dim("batch", min=2, max=9)}
program = torch.export.export(torch.nn.Linear(4, 2), (torch.zeros(3, 4),), dynamic_shapes=(batch,))
result = [node.name for node in program.run_decompositions().graph.nodes]
"""
        assert executed(code)[-1] == "output"

    def test_only_scratch_folder_is_written(self, tmp_path: Path) -> None:
        code = (
            "import os; open('c', 'w').write('abc'); os.mkdir('a'); os.rename('c', 'a/b'); result = open('a/b').read()"
        )
        assert executed(code) == "abc"
        assert executed("import tempfile, os; result = tempfile.mkdtemp().startswith(os.getcwd())")
        for place in (tmp_path, Path(tempfile.gettempdir()), Path.home(), Path(sklearn.__file__).parent):
            assert attempted(f"open({str(place / 'new')!r}, 'w')") == "PermissionError"

    def test_metadata_of_others_files_stay(self, secret: Path) -> None:
        for change in ("chmod({!r}, 0)", "utime({!r}, (1, 1))", "truncate({!r}, 0)", "chown({!r}, 1, 1)"):
            assert attempted(f"import os; os.{change.format(str(secret))}") == "PermissionError"
        assert attempted(f"import os; os.link({str(secret)!r}, 'link')") == "OSError"
        assert attempted(f"import os; os.rename({str(secret)!r}, 'moved')") in ("OSError", "PermissionError")
        assert secret.read_text() == "labels"
        code = f"import os; os.open({sklearn.__file__!r}, os.O_RDONLY | os.O_TRUNC)"
        assert attempted(code) == "PermissionError"

    def test_scratch_folder_is_removed(self) -> None:
        folder = Path(executed("import os; result = os.getcwd(); open('big', 'wb').write(bytes(1000))"))
        until(lambda: not folder.exists())

    @pytest.mark.parametrize("mode", [0o700, 0])
    def test_deep_and_unreadable_folders_are_removed(self, mode: int) -> None:
        code = f"""
import os
result = os.getcwd()
for n in range({3_000 if mode else 1}):
    open("moved0", "w").close()
    os.mkdir("d", {mode}), {"os.chdir('d')" if mode else None}
"""
        folder = Path(executed(code))
        until(lambda: not folder.exists())

    def test_file_has_largest_size(self) -> None:
        assert attempted("open('big', 'wb').write(bytes(70 << 20))") == "OSError"


@needs_kernel
class TestOthers:
    @pytest.mark.parametrize(
        "code",
        [
            "import socket; socket.socket()",
            "import socket; socket.socket(socket.AF_UNIX)",
            "import socket; socket.create_connection(('127.0.0.1', 80))",
            "import os; os.fork()",
            "import subprocess; subprocess.run(['/bin/true'])",
            "import os; os.posix_spawn('/bin/true', ['true'], {})",
            "import os; os.execv('/bin/true', ['true'])",
            "import os; os.kill(os.getppid(), 0)",
            "import os; os.kill(-1, 0)",
            "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 5)",
            "import os; os.sched_setaffinity(os.getppid(), {0})",
            "import resource, os; resource.prlimit(os.getppid(), resource.RLIMIT_CORE)",
            "import os; os.memfd_create('shared')",
            "import multiprocessing.shared_memory as m; m.SharedMemory(create=True, size=9)",
            "import os, fcntl; fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
            "import os, fcntl; fcntl.flock(os.open(os.__file__, os.O_RDONLY), fcntl.LOCK_EX)",
            "import fcntl; fcntl.lockf(open('own', 'w'), fcntl.LOCK_EX)",
            "import os, fcntl; fcntl.lockf(os.open(os.__file__, os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB)",
            "import fcntl; fcntl.fcntl(open('own', 'w'), 37, bytes(64))",
            "import os, fcntl; fcntl.fcntl(os.open(os.__file__, os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK)",
            "import os, fcntl; fcntl.fcntl(os.open('.', os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_CREATE)",
            "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSTI, b'x')",
        ],
    )
    def test_call_is_denied(self, code: str) -> None:
        assert attempted(code) in ("PermissionError", "FileNotFoundError")

    @pytest.mark.parametrize(
        "call",
        [
            "ptrace(16, os.getppid(), None, None)",
            "prctl(1, 0, 0, 0, 0)",
            "unshare(0x10000000)",
            "shmget(1, 4096, 0o1600)",
            "syscall(434, os.getppid(), 0)",  # pidfd_open
            "syscall(425, 8, None)",  # io_uring_setup
            "syscall(435, None, 0)",  # clone3
            "syscall(0x40000000 + 39)",  # getpid of x32
            "syscall(310, os.getppid(), None, 0, None, 0, 0)",  # process_vm_readv, on x86_64
        ],
    )
    def test_system_call_is_denied(self, call: str) -> None:
        code = f"import ctypes, os; c = ctypes.CDLL(None, use_errno=True); result = c.{call}, ctypes.get_errno()"
        failed, number = executed(code)
        assert (failed, number in (1, 38)) == (-1, True)

    def test_environment_holds_nothing_of_user(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
        assert orders.nursery() is not None
        names = set(executed("import os; result = [*os.environ]"))
        assert names <= {*orders.KEPT, *orders.SET, "HOME", "TMPDIR", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"} | {
            name for name in names if name.startswith(("TORCH", "TRITON"))
        }

    def test_no_descriptor_is_inherited(self) -> None:
        code = "for n in range(256):\n    try: os.fstat(n); result.append(n)\n    except OSError: pass"
        assert len(executed(f"import os\nresult = []\n{code}")) == 3 + 2  # and the pipes of request and reply

    def test_signal_to_itself_is_allowed(self) -> None:
        assert died("import os; os.abort()").reason == "was ended by SIGABRT"

    def test_threads_are_allowed(self) -> None:
        code = "from concurrent.futures import ThreadPoolExecutor as T; result = [*T(4).map(abs, [-1, -2])]"
        assert executed(code) == [1, 2]


class TestEnds:
    def test_uncaught_error_is_named(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert died("1 / 0").reason == "raised ZeroDivisionError: division by zero"
        assert 'File "untrusted.py", line 1' in capfd.readouterr().err

    @needs_limits
    def test_memory_is_limited(self) -> None:
        with pytest.raises(OutOfMemory, match="6 GiB"):
            executed("import torch; kept = [torch.empty(1 << 30, dtype=torch.uint8) for _ in range(8)]")
        with pytest.raises(OutOfMemory, match="6 GiB"):
            executed("import mmap; kept = [mmap.mmap(-1, 1 << 30) for _ in range(8)]")  # shared, and not touched

    def test_time_is_limited_and_line_named(self) -> None:
        error = died("import time\nwhile True: time.sleep(0.01)", seconds=1.0)
        assert error.reason == "did not end within 1 s"
        if hasattr(signal, "SIGUSR1"):
            assert 'File "untrusted.py", line 2' in error.said

    def test_child_that_stops_itself_is_ended(self) -> None:
        assert died("import os, signal; signal.raise_signal(signal.SIGSTOP)", seconds=1.0).reason.startswith(
            "did not end"
        )

    def test_child_that_reads_no_answer_is_ended(self) -> None:
        code = "import os, json\ntext = b'{\"ask\": 0}'\nwhile True: os.write(REPLY, len(text).to_bytes(8) + text)"
        error = died(WITH_REPLY + code, answer=lambda _: "x" * 1000, seconds=2.0)
        assert error.reason == "did not end within 2 s"

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            ("import ctypes; ctypes.string_at(0)", "was ended by SIGSEGV"),
            ("import os; os._exit(3)", "ended by itself, with code 3"),
            ("import sys; sys.exit(3)", "raised SystemExit: 3"),
            ("result = object()", "raised TypeError: Object of type object is not JSON serializable"),
        ],
    )
    def test_reason_is_named(self, code: str, reason: str) -> None:
        assert died(code).reason == reason

    def test_thread_left_behind_ends(self, capfd: pytest.CaptureFixture[str]) -> None:
        code = "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); result = 1"
        began = time.monotonic()
        assert executed(code) == 1
        assert time.monotonic() - began < 5

    def test_missing_function_is_named(self) -> None:
        with pytest.raises(ChildDied, match="does not begin: ModuleNotFoundError"):
            confine.call("no_such_module:run", None)
        with pytest.raises(ChildDied, match="does not begin: AttributeError"):
            confine.call("confined:missing", None)


WITH_REPLY = """
import gc, io
REPLY = next(f.fileno() for f in gc.get_objects() if isinstance(f, io.BufferedWriter) and f.fileno() > 2)
"""
"""Finds the pipe that the result goes to."""


class TestGarbage:
    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"hello",
            b"[]",
            b"{}",
            b'{"result": 1, "more": 2}',
            b'{"result": NaN}',
            b'{"result": 1e999}',
            b'{"result": "\\ud800"}',
            b'{"result": "\xff"}',
            b'{"result": ' + b"[" * 100_000,
            b'{"result": ' + b"9" * 10_000 + b"}",
            b'{"raised": 1}',
            b'{"ask": 1}',
        ],
    )
    def test_message_without_meaning_is_refused(self, text: bytes) -> None:
        code = f"import os; os.write(REPLY, len(TEXT := {text!r}).to_bytes(8) + TEXT); os._exit(0)"
        assert died(WITH_REPLY + code).reason == messages.GARBAGE

    def test_escaped_backslash_is_no_half_character(self) -> None:
        assert executed(r"result = '\\ud800'") == r"\ud800"
        assert executed("result = chr(0xd800)") == "?"

    def test_too_long_message_is_refused(self) -> None:
        assert died(WITH_REPLY + "import os; os.write(REPLY, (1 << 60).to_bytes(8)); os._exit(0)").reason.endswith(
            "32 MiB"
        )
        assert died("result = 'x' * (33 << 20)").reason == "handed over more than 32 MiB"

    def test_forged_result_is_only_a_result(self) -> None:
        forge = "import os, time; os.write(REPLY, len(TEXT).to_bytes(8) + TEXT); time.sleep(60)"
        code = f"TEXT = b'{{\"result\": 5}}'; {forge}"
        assert executed(WITH_REPLY + code) == 5

    def test_child_that_writes_everywhere_harms_none(self) -> None:
        code = "for n in range(256):\n    try: os.write(n, bytes([7]) * 99)\n    except OSError: pass\nos._exit(0)"
        assert died(f"import os\n{code}").reason == "handed over more than 32 MiB"
        assert confine.call("confined:echo", 1) == 1

    def test_child_that_closes_everything_ends(self) -> None:
        assert died("import os; os.closerange(1, 256); os._exit(4)").reason == "ended by itself, with code 4"


class TestPrinting:
    def test_print_reaches_standard_error(self, capfd: pytest.CaptureFixture[str]) -> None:
        executed("import sys, os; print('shape', (1, 2)); print('b', file=sys.stderr); os.write(1, b'c')")
        assert capfd.readouterr() == ("", "shape (1, 2)\nb\nc\n")

    def test_terminal_gets_no_orders(self, capfd: pytest.CaptureFixture[str]) -> None:
        executed(r"print('\x1b[2Ja\tb\r\nc')")
        assert capfd.readouterr().err == "?[2Ja   b\nc\n"

    def test_last_of_long_output_is_shown(self, capfd: pytest.CaptureFixture[str]) -> None:
        executed("for n in range(100_000): print(n)")
        shown = capfd.readouterr().err
        assert len(shown) < printed.MOST_PRINTED + 100
        assert shown.startswith("(the end of what was printed)\n")
        assert shown.endswith("99999\n")


@needs_linux
class TestNursery:
    def test_has_one_thread(self) -> None:
        nursery = executed("import os; result = os.getppid()")
        assert len(os.listdir(f"/proc/{nursery}/task")) == 1

    @pytest.mark.thorough
    def test_killed_nursery_is_replaced(self) -> None:
        first = executed("import os; result = os.getppid()")
        os.kill(first, signal.SIGKILL)
        until(lambda: not is_alive(first))
        assert executed("import os; result = os.getppid()") != first

    @pytest.mark.thorough
    def test_death_of_nursery_is_reported(self) -> None:
        nursery = executed("import os; result = os.getppid()")
        children = []

        def kill(child: int) -> None:
            children.append(child)
            os.kill(nursery, signal.SIGKILL)

        reason = died("import os, time; ask(os.getpid()); time.sleep(50)", answer=kill).reason
        assert "ended with the one that forks it" in reason
        until(lambda: not is_alive(children[0]))

    def test_ends_with_its_process(self, tmp_path: Path) -> None:
        child = "import os, time; ask([os.getppid(), os.getpid()]); time.sleep(90)"
        tell = "lambda pids: print(*pids, flush=True)"
        code = f"from harness import confine; confine.call('confined:execute', {child!r}, answer={tell})"
        environment = {**os.environ, "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'tests'}"}
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        assert all(is_alive(pid) for pid in pids)
        process.kill()
        process.communicate()
        until(lambda: not any(is_alive(pid) for pid in pids))


class TestIsolation:
    @needs_linux
    def test_missing_parts_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        confine.isolation.cache_clear()
        monkeypatch.setattr(kernel, "_landlock_version", lambda: 0)
        monkeypatch.setattr(kernel, "_has_filter", lambda: False)
        isolation = confine.isolation()
        confine.isolation.cache_clear()
        assert isolation.level == "process"
        assert ["files" in isolation.missing[0], "network" in isolation.missing[1]] == [True, True]

    @pytest.mark.thorough
    def test_child_without_nursery_answers(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(launch, "has_nursery", lambda: False)
        assert executed("print('a'); result = ask(2)", answer=lambda n: n + 1) == 3
        assert capfd.readouterr().err == "a\n"
        assert died("import time; time.sleep(50)", seconds=3.0).reason == "did not end within 3 s"


class Filter:
    """Runs the filter of system calls as the kernel does."""

    def __init__(self, machine: str, pid: int) -> None:
        self._steps = [*kernel._program(machine, pid)]

    def answer(self, architecture: int, number: int, *arguments: int) -> int:
        """Return what happens to a call: kernel._ALLOW, kernel._PERMISSION, ..."""
        words = {0: number, 4: architecture} | {16 + 8 * place: word for place, word in enumerate(arguments)}
        at = word = 0
        while True:
            operation, if_so, if_not, operand = self._steps[at]
            if operation == kernel._RETURN:
                return operand
            if operation == kernel._LOAD:
                word = words[operand]
            elif operation == kernel._AND:
                word &= operand
            else:
                holds = word >= operand if operation == kernel._AT_LEAST else word == operand
                at += if_so if holds else if_not
            at += 1


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filter_answers_alike_on_both_machines(machine: str) -> None:
    here = Filter(machine, 77)
    architecture = kernel._ARCHITECTURES[machine]
    numbers = kernel._numbers(f"{kernel._DENIED},{kernel._ARGUMENT}", machine)
    plain = kernel._numbers("read 0 63, mmap 9 222, futex 202 98, exit_group 231 94", machine)

    def answer(name: str, *arguments: int) -> int:
        return here.answer(architecture, (numbers | plain)[name], *arguments)

    assert {answer(name) for name in kernel._numbers(kernel._DENIED, machine)} == {kernel._PERMISSION}
    assert {answer(name) for name in plain} == {kernel._ALLOW}
    assert {here.answer(architecture, number) for number in kernel._LATE} == {kernel._ALLOW}
    assert {here.answer(architecture, number) for number in (425, 434, 435, 437, 999, 1 << 30)} == {kernel._UNKNOWN}
    assert here.answer(0x40000003, 0) == kernel._KILL  # 32-bit x86
    assert answer("clone", 0x11) == answer("clone", 0x100) == answer("tgkill", 78) == kernel._PERMISSION
    assert answer("clone", 0x3D0F00) == answer("tgkill", 77) == answer("prlimit64", 0) == kernel._ALLOW
    assert answer("prctl", 1) == answer("prlimit64", 78) == answer("fcntl", 0, 8) == kernel._PERMISSION
    assert answer("prctl", 15) == answer("fcntl", 0, 1) == answer("ioctl", 0, 0x5401) == kernel._ALLOW
    truncating = [answer("openat", 0, 0, os.O_TRUNC | way) for way in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)]
    assert truncating == [kernel._PERMISSION, kernel._ALLOW, kernel._ALLOW]


def test_packages_outside_path_are_not_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lib/site-packages/sklearn", "work/lib", "other"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(sys, "path", ["", *(str(tmp_path / name) for name in ("", "lib", "work/lib", "other"))])
    monkeypatch.chdir(tmp_path / "work")
    path = places.python_path([Path()])
    assert path == [str(tmp_path / "lib"), str(tmp_path / "other")]
    granted = [place for place, whole in places.readable(path, places.data_in(path, [])) if whole]
    assert tmp_path / "other" in granted
    assert not [place for place in granted if place.is_relative_to(tmp_path / "lib")]


def until(holds: Any) -> None:
    """Wait until something holds, which takes a moment."""
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
