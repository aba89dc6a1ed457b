"""A release: one version of everything that decides an answer, named by the hash of its content."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lab.errors import LabError
from lab.records import Decoding, Message, Settings

FORMAT = 1
Kind = Literal["file", "served", "scripted"]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A version of a prompt in MLflow's registry, with its text. `chat` texts are JSON: a list of messages."""

    name: str
    version: int
    sha256: str
    text: str
    chat: bool = False

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages a conversation begins with: one system message, or those of a chat prompt."""
        if not self.chat:
            return (Message(role="system", content=self.text),)
        return tuple(Message(role=m["role"], content=m["content"]) for m in json.loads(self.text))

    @property
    def shown(self) -> str:
        """The text for people: of a chat prompt, each message under its role."""
        return "\n".join(f"{m.role}:\n{m.content}" for m in self.messages) if self.chat else self.text


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model as it was when it was registered. `location` is where it lay then: a path, a URL, or a scripted engine's name.

    Of a file the hash says which it is. The bytes behind a URL (`served`) cannot be known; a `scripted` model has none.
    """

    name: str
    version: int
    kind: Kind = "file"
    sha256: str = ""
    bytes: int = 0
    location: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the header of the file says: architecture, weights, bits per weight, tensor mix, context, licence."""


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """An index of passages with the embedding model it was made with; `passages` of them are put before a question."""

    name: str
    version: int
    index_version: str
    index_sha256: str
    index_location: str
    embedding_model: str
    embedding_sha256: str
    """Of the weights, as the index knows them."""
    embedding_files_sha256: str
    """Of every file of the embedding model: names and contents."""
    passages: int = 3
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PolicyText:
    """A guardrail policy, whole: the release needs no file for it."""

    name: str
    version: int
    sha256: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Release:
    """One version of each part, immutable. `number` counts releases; `digest` is the hash of the content and the identity.

    The content is the text of the prompt, the bytes of the model and of the index, decoding, policy and engine settings;
    names, places and the runs attached as evidence are not.
    """

    number: int = 0
    prompt: Prompt
    model: Model
    policy: PolicyText
    decoding: Decoding = Decoding()
    engine: str = "llama_cpp"
    engine_settings: Settings = field(default_factory=dict)
    retrieval: Retrieval | None = None
    note: str = ""
    by: str = ""
    at_ms: int = 0
    runs: tuple[str, ...] = ()
    """Trial runs that measured this configuration; more can be attached later."""

    @property
    def digest(self) -> str:
        return sha256_of(json.dumps(self.content(), sort_keys=True))

    @property
    def title(self) -> str:
        return f"release {self.number} ({self.digest[:8]})"

    def content(self) -> dict[str, Any]:
        """All that decides an answer, and nothing else."""
        model, found = self.model, self.retrieval
        return {
            "format": FORMAT, "prompt": [self.prompt.sha256, self.prompt.chat], "policy": self.policy.sha256,
            "model": model.sha256 if model.kind == "file" else f"{model.kind} {model.location}",
            "decoding": _plain(self.decoding), "engine": self.engine, "engine_settings": dict(self.engine_settings),
            "retrieval": found and [found.index_sha256, found.index_version, found.embedding_files_sha256, found.passages]}

    def as_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return {**dataclasses.asdict(self), "digest": self.digest}


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def written(release: Release) -> dict[str, str]:
    """The release as tags: the two long texts by themselves, the rest as JSON."""
    rest = dataclasses.asdict(release)
    for name in ("number", "at_ms", "runs"):
        del rest[name]
    texts = {f"lab.{part}": rest[part].pop("text") for part in ("prompt", "policy")}
    return {"lab.release": json.dumps(rest, ensure_ascii=False), "lab.digest": release.digest, **texts}


def read(tags: Mapping[str, str], number: int, at_ms: int) -> Release:
    """The release that `written` made tags of. Raises `LabError` when it is not what its hash says."""
    try:
        rest = json.loads(tags["lab.release"])
        stop = tuple(rest["decoding"].pop("stop"))
        made = Release(**{
            **rest, "number": number, "at_ms": at_ms, "decoding": Decoding(**rest["decoding"], stop=stop),
            "prompt": Prompt(**rest["prompt"], text=tags["lab.prompt"]), "model": Model(**rest["model"]),
            "policy": PolicyText(**rest["policy"], text=tags["lab.policy"]),
            "retrieval": Retrieval(**rest["retrieval"]) if rest["retrieval"] else None,
            "runs": tuple(json.loads(tags.get("lab.runs", "[]")))})
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise LabError(f"Release {number} cannot be read ({type(error).__name__}: {error}); it was changed outside the "
                       "workbench or written by another version of it.") from error
    if made.digest != tags.get("lab.digest") or any(sha256_of(p.text) != p.sha256 for p in (made.prompt, made.policy)):
        raise LabError(f"Release {number} is not what its hash says: its record was changed in the store.")
    return made


def _plain(decoding: Decoding) -> dict[str, Any]:
    return {**dataclasses.asdict(decoding), "stop": list(decoding.stop)}
