"""Numbered entries in MLflow's model registry: each is written whole or not at all, and read by SQL or by REST.

MLflow gives every new version of a registered model the next number in the same transaction that stores its tags. So a
registered model is a journal that several processes and machines can append to at once: entry N is there only after N-1,
and nobody can put one in between.
"""

from __future__ import annotations

import functools
import random
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from lab.errors import LabError
from lab.ops import feedback, store, tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")
PATIENCE_S = 60.0
LONGEST = 100_000
"""Characters that MLflow keeps of one tag of a version."""
_DELETED = "Deleted_Internal"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One version of a registered model. Deleted ones are seen on a local store only, which keeps their tags."""

    number: int
    at_ms: int
    tags: Mapping[str, str]
    deleted: bool = False


def append(name: str, tags: Mapping[str, str], *, source: str, about: str, says: str = "") -> int:
    """Add an entry to registered model `name`, made when it is not there (`about` describes it); returns its number.

    `source` is `SCHEME:/SOMETHING`: a server refuses paths that are not absolute.
    """
    for key, value in tags.items():
        if len(value) > LONGEST:
            raise LabError(f"The {key.removeprefix('lab.')} has {len(value):,} characters, and MLflow keeps {LONGEST:,} of one; "
                           "shorten it.")
    with tracking.sentences():
        client = tracking.writer()
        _ensure(client, name, about)
        made = uncontested(lambda: client.create_model_version(
            name, source, tags=dict(tags), description=says[:5000] or None, await_creation_for=0))
    return int(made.version)


def tag(name: str, number: int, key: str, value: str) -> None:
    """Set a tag of an entry: what is known about it, never what it is."""
    with tracking.sentences():
        client = tracking.writer()
        feedback.retried(lambda: client.set_model_version_tag(name, str(number), key, value))


def entries(name: str) -> list[Entry]:
    """All entries of registered model `name` in their order; none when it does not exist."""
    connection = store.connect()
    if connection is None:
        return _from_rest(name) if store.database() is None else []
    try:
        return _from_sql(connection, name)
    finally:
        connection.close()


def head(name: str) -> tuple[int, int]:
    """When the registered model was made (ms since 1970) and the number of its latest entry; zeros when there is none."""
    connection = store.connect()
    if connection is None:
        return _head_by_rest(name) if store.database() is None else (0, 0)
    try:
        born = connection.execute("select creation_time from registered_models where name = ?", (name,)).fetchone()
        last = connection.execute("select max(version) from model_versions where name = ?", (name,)).fetchone()
        return (int(born[0] or 0), int(last[0] or 0)) if born else (0, 0)
    finally:
        connection.close()


def aliases(name: str) -> dict[str, int]:
    """The aliases MLflow itself keeps for this registered model, with the numbers they point at."""
    connection = store.connect()
    if connection is None and store.database() is not None:
        return {}
    if connection is not None:
        try:
            return {alias: int(number) for alias, number in connection.execute(
                "select alias, version from registered_model_aliases where name = ?", (name,))}
        finally:
            connection.close()
    from mlflow.exceptions import MlflowException

    with tracking.sentences():
        try:
            return {alias: int(number) for alias, number in store.client().get_registered_model(name).aliases.items()}
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise


def point(name: str, wanted: Mapping[str, int | None]) -> None:
    """Make MLflow's aliases say `wanted`; None takes an alias away."""
    now = aliases(name)
    with tracking.sentences():
        client = tracking.writer()
        for alias, number in wanted.items():
            if number is None and alias in now:
                feedback.retried(functools.partial(client.delete_registered_model_alias, name, alias))
            elif number is not None and now.get(alias) != number:
                feedback.retried(functools.partial(client.set_registered_model_alias, name, alias, str(number)))


def _from_sql(connection: sqlite3.Connection, name: str) -> list[Entry]:
    found: dict[int, tuple[int, bool, dict[str, str]]] = {}
    for number, at_ms, stage, key, value in connection.execute(
            "select v.version, v.creation_time, v.current_stage, t.key, t.value from model_versions v left join "
            "model_version_tags t on t.name = v.name and t.version = v.version where v.name = ? order by v.version", (name,)):
        tags = found.setdefault(int(number), (int(at_ms or 0), stage == _DELETED, {}))[2]
        if key is not None:
            tags[key] = value or ""
    return [Entry(number=n, at_ms=at, deleted=gone, tags=tags) for n, (at, gone, tags) in found.items()]


_PROMPTS = " AND tags.`mlflow.prompt.is_prompt` = 'true'"
"""Without this in the filter the search leaves out prompts, which are registered models, too."""


def _from_rest(name: str) -> list[Entry]:
    with tracking.sentences():
        return _searched(f"name='{name}'") or _searched(f"name='{name}'{_PROMPTS}")


def _searched(which: str) -> list[Entry]:
    client, found, token = store.client(), list[Entry](), ""
    while True:
        page = client.search_model_versions(which, max_results=1000, page_token=token or None)
        found += [Entry(number=int(v.version), at_ms=int(v.creation_timestamp), tags=dict(v.tags)) for v in page]
        token = page.token or ""
        if not token:
            return sorted(found, key=lambda e: e.number)


def _head_by_rest(name: str) -> tuple[int, int]:
    from mlflow.exceptions import MlflowException

    with tracking.sentences():
        client = store.client()
        try:
            born = int(client.get_registered_model(name).creation_timestamp)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return 0, 0
            raise
        last = [found for which in (f"name='{name}'", f"name='{name}'{_PROMPTS}")
                for found in client.search_model_versions(which, max_results=1, order_by=["version_number DESC"])]
        return born, int(last[0].version) if last else 0


def _ensure(client: MlflowClient, name: str, about: str) -> None:
    from mlflow.exceptions import MlflowException

    if head(name)[0]:
        return
    try:
        feedback.retried(lambda: client.create_registered_model(name, description=about))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def uncontested(write: Callable[[], T]) -> T:
    """What `write` returns; tried again when others took its number three times running, after which MLflow gives up."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return feedback.retried(write)
        except Exception as error:
            if "giving up" not in str(error).lower() or time.monotonic() > end:
                raise
        time.sleep(random.uniform(0.005, 0.05))
