"""The weights and the vocabulary of one GGUF file."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llama_cpp as C

from lab.errors import LabError
from lab.records import Message

_messages: list[str] = []


@C.llama_log_callback  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, _user_data: object) -> None:
    # llama.cpp says why it failed only in its log: keep the last errors for the sentence the user reads.
    if level >= 3:
        _messages.append(text.decode("utf-8", "replace").strip())
        del _messages[:-8]


@functools.cache
def start_backend() -> None:
    """Initialise llama.cpp once per process and catch its log."""
    C.llama_log_set(_log, ctypes.c_void_p(0))
    C.llama_backend_init()


def apart(call: Callable[..., Any], *arguments: Any) -> Any:
    """`call(*arguments)` in a thread of its own, for calls in which llama.cpp calls back.

    Python raises Ctrl-C in the main thread's next line of Python. Where that is a callback, ctypes drops it and the
    interruption is lost.
    """
    with ThreadPoolExecutor(1) as worker:
        return worker.submit(call, *arguments).result()


def last_message() -> str:
    """The last errors llama.cpp logged, as one line."""
    return "; ".join(m for m in _messages[-2:] if m) or "no reason given"


class Weights:
    """Weights in memory (mapped from the file) with their vocabulary. Free with `close`.

    Raises `LabError` if llama.cpp refuses the file.
    """

    def __init__(self, path: Path, *, gpu_layers: int = 0, mmap: bool = True) -> None:
        start_backend()
        params = C.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.load_mode = C.LLAMA_LOAD_MODE_MMAP if mmap else C.LLAMA_LOAD_MODE_NONE
        self.path = path
        self.pointer = apart(C.llama_model_load_from_file, str(path).encode(), params)
        if not self.pointer:
            raise LabError(f"llama.cpp cannot load {path} ({last_message()}); try another file or a newer release.")
        self.vocab = C.llama_model_get_vocab(self.pointer)
        self.vocabulary: int = C.llama_vocab_n_tokens(self.vocab)
        self.trained_context_tokens: int = C.llama_model_n_ctx_train(self.pointer)
        self.bos: int = C.llama_vocab_bos(self.vocab)
        self.eos: int = C.llama_vocab_eos(self.vocab)
        self.adds_bos: bool = C.llama_vocab_get_add_bos(self.vocab)
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self._buffer = ctypes.create_string_buffer(512)

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids; `special` adds the begin token where the model wants one, and parses markup such as `<|im_end|>`."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8
        out = (C.llama_token * room)()
        n = C.llama_tokenize(self.vocab, raw, len(raw), out, room, special, special)
        if n < 0:
            raise LabError(f"The text of {len(text):,} characters cannot be tokenized by {self.path.name}.")
        return list(out[:n])

    def piece(self, token: int) -> bytes:
        """The bytes of one token; control tokens have none."""
        found = self._pieces.get(token)
        if found is None:
            n = C.llama_token_to_piece(self.vocab, token, self._buffer, 512, 0, False)
            if n < 0:  # longer than the buffer: -n is the room it needs
                self._buffer = ctypes.create_string_buffer(-n)
                return self.piece(token)
            found = self._pieces[token] = self._buffer.raw[:n]
        return found

    def detokenize(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self.piece, tokens)).decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        found = self._ends.get(token)
        if found is None:
            found = self._ends[token] = bool(C.llama_vocab_is_eog(self.vocab, token))
        return found

    def check(self, tokens: Sequence[int]) -> None:
        """Raise `LabError` if a token is not of this vocabulary."""
        bad = next((t for t in tokens if not 0 <= t < self.vocabulary), None)
        if bad is not None:
            raise LabError(f"Token {bad} is not in the vocabulary of {self.path.name} (0 to {self.vocabulary - 1}).")

    def chat(self, messages: Sequence[Message]) -> str:
        """The prompt that the model's own chat template (Jinja) makes of `messages`, ready for the answer."""
        turns: list[Any] = [{"role": m.role, "content": m.content} for m in messages]
        return str(self._template(messages=turns).prompt)

    @functools.cached_property
    def _template(self) -> C.llama_chat_format.Jinja2ChatFormatter:
        raw = C.llama_model_chat_template(self.pointer, None)
        if not raw:
            raise LabError(f"{self.path.name} has no chat template (a base model?); give a prompt instead of messages.")
        return C.llama_chat_format.Jinja2ChatFormatter(
            template=raw.decode(), eos_token=self._markup(self.eos), bos_token=self._markup(self.bos))

    def _markup(self, token: int) -> str:
        if token < 0:
            return ""
        return str(C.llama_vocab_get_text(self.vocab, token).decode("utf-8", "replace"))

    def close(self) -> None:
        if self.pointer:
            C.llama_model_free(self.pointer)
            self.pointer = None
