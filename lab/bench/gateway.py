"""What a gateway adds to the bare engine server on the scripted engine, what it costs, LiteLLM beside it, and a rollback's time.

Server and gateway run the same scripted engine at the same pace, which spells one English text, a letter a token. Parts: `paced`
(delays, well below saturation), `saturated` (requests/s and tokens per CPU second), `peers` (with `--litellm ENV`: the
gateway and the LiteLLM proxy of that environment in front of the same server, with the same client) and `rollback`.

Guards hold letters back until they can begin nothing forbidden, so under a policy the first text comes some letters later
whatever the machine; that part is known from the server's own letters and shown beside the whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab import machine
from lab.bench._gateway_load import (
    PROMPT,
    Arm,
    Load,
    added_at,
    added_p50,
    paced,
    ratio,
    saturated,
    waited,
    warmed,
    worked,
)
from lab.bench._gateway_peer import KEY_ENV, litellm
from lab.bench._gateway_rollback import rollback
from lab.engines.http.child import Child
from lab.engines.http.served import ServeSettings
from lab.errors import LabError
from lab.ops import store, versions
from lab.ops.gateway import child as gateways
from lab.records import Estimate
from lab.safety import Chain
from lab.safety.policy import load as load_policy

MODEL = "markov"
REPLY = ("The bridge was opened in the spring after four years of work. It carries two lanes of traffic and a path for people "
         "on foot, and it is closed when the wind is strong. ") * 2
NO_RULES = "policy: none\nversion: 1\nrules: []\n"
PARTS = ("paced", "saturated", "peers", "rollback")
SERVER, PLAIN, GUARDED = "bare server", "gateway, no rules", "gateway, default policy"
BEFORE, BEFORE_GUARDED, PEER = "gateway before the server", "the same, default policy", "LiteLLM before the server"
MOST_P50_S, MOST_P99_S, LEAST_RATIO = 0.002, 0.005, 5.0
SHORT_TOKENS, FAST_STEP_S, PEER_SHARE = 4, 0.001, 4
"""A short answer's tokens, the engine's step where a gateway is to be what is slow, and how many times less LiteLLM is asked."""

Seen = dict[str, list[Load]]


def main(
    *, streams: int = 64, requests: int = 400, output_tokens: int = 64, step_ms: float = 20.0, rounds: int = 4,
    burst: int = 1024, processes: int = 4, rollbacks: int = 5, litellm: str = "", peer_streams: float = 2.0,
    parts: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure the `parts` (default: all that can be), print a table as it comes, and return the same figures."""
    chosen = tuple(parts) or tuple(part for part in PARTS if part != "peers" or litellm)
    if unknown := sorted(set(chosen) - set(PARTS)):
        raise LabError(f"There is no part '{unknown[0]}'; the parts are {', '.join(PARTS)}.")
    if "peers" in chosen and not litellm:
        raise LabError("The part 'peers' needs --litellm with the path of a virtual environment that has litellm[proxy].")
    if output_tokens > len(REPLY) or min(streams, requests, output_tokens, rounds, burst) < 1:
        raise LabError(f"Give 1 to {len(REPLY)} output tokens, and at least one stream, request and round.")
    how = _How(streams=streams, requests=requests, output=output_tokens, step_s=step_ms / 1e3, rounds=rounds, burst=burst)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="lab-bench-") as home, store.elsewhere(home), machine.Watch() as watch:
        make = _Releases(Path(home))
        if "paced" in chosen:
            found["paced"] = _paced(make, how)
        if "saturated" in chosen:
            found["saturated"] = _saturated(make, how)
        if "peers" in chosen:
            found["peers"] = _peers(make, how, litellm, peer_streams)
        if "rollback" in chosen:
            found["rollback"] = rollback(make(how.step_s), make(how.step_s, prompt="Be long."), processes, rollbacks)
    flags = watch.result.flags()
    print(*(f"Caution: {flag}; run again on a quiet one before believing a figure." for flag in flags), sep="\n")
    return {"streams": streams, "step_ms": step_ms, **found, "flags": list(flags),
            "machine": machine.fingerprint(bandwidth=False).as_tags()}


@dataclass(frozen=True, kw_only=True)
class _How:
    streams: int
    requests: int
    output: int
    step_s: float
    rounds: int
    burst: int


def _paced(make: _Releases, how: _How) -> dict[str, Any]:
    """Delays of each arm beside the bare server's."""
    with _arms({PLAIN: make(how.step_s), GUARDED: make(how.step_s, policy="default")}, how.streams, how.step_s) as arms:
        seen = _rounds(arms, how.rounds, lambda arm, number: paced(
            arm, streams=how.streams, count=how.requests, output=how.output, step_s=how.step_s, seed=number))
    rate = how.streams / (how.output * how.step_s)
    print(f"\nPaced: {rate:.0f} requests/s arriving by a Poisson process, {how.streams} streams open in the mean, "
          f"{rate * how.output:,.0f} tokens/s; {how.rounds} rounds of {how.requests} requests in each arm")
    shown = {name: _delays(name, loads, seen[SERVER]) for name, loads in seen.items()}
    letters = first_text(REPLY)
    waits, works = waited(seen[SERVER], letters), worked(seen[GUARDED], seen[SERVER], letters)
    print(f"The default policy shows the first text of this reply with letter {letters}, {1e3 * waits.value:.1f} ms after the "
          f"first; what it adds to that is {_ms(works)} at p50.")
    shown[GUARDED] |= {"first_text_letters": letters, "waited_s": _json(waits), "worked_p50_s": _json(works)}
    return shown


def _delays(name: str, loads: Sequence[Load], bases: Sequence[Load]) -> dict[str, Any]:
    p50, p99 = (float(np.median([np.percentile(load.ttft_s, q) for load in loads])) for q in (50, 99))
    share = float(np.median([load.cpu_share for load in loads]))
    line = f"{name:28} TTFT p50 {1e3 * p50:7.2f} ms, p99 {1e3 * p99:7.2f} ms   {share:4.0%} of a core"
    one: dict[str, Any] = {"ttft_p50_s": p50, "ttft_p99_s": p99, "cpu_share": share}
    if loads is not bases:
        at50, at99 = added_p50(loads, bases), added_at(99, loads, bases)
        one |= {"added_p50_s": _json(at50), "added_p99_s": _json(at99)}
        line += f"   added p50 {_ms(at50)}, p99 {_ms(at99)}"
    if name == PLAIN:
        one["reached"] = bool(at50.value < MOST_P50_S and at99.value < MOST_P99_S)
        line += f"  below {1e3 * MOST_P50_S:g} and {1e3 * MOST_P99_S:g} ms: {'yes' if one['reached'] else 'NO'}"
    print(line, flush=True)
    return one


def _saturated(make: _Releases, how: _How) -> dict[str, Any]:
    """What each arm can bear: short answers that are not streamed, and streams."""
    releases = {PLAIN: make(FAST_STEP_S), GUARDED: make(FAST_STEP_S, policy="default")}
    with _arms(releases, how.streams, FAST_STEP_S) as arms:
        print(f"\nSaturated: {how.streams} users ask again as soon as they are answered; a step takes {1e3 * FAST_STEP_S:g} ms")
        return _rates(_both(arms, how), SERVER)


def _peers(make: _Releases, how: _How, environment: str, streams: float) -> dict[str, Any]:
    """The gateway and LiteLLM in front of the same server: what they can bear, and what they add at a load both bear easily."""
    with closing(_server(how.streams, FAST_STEP_S)) as bare, litellm(environment, model=MODEL, port=bare.port) as peer:
        url = f"http://127.0.0.1:{bare.port}/v1#{MODEL}"
        releases = {BEFORE: make(None, model=url), BEFORE_GUARDED: make(None, model=url, policy="default")}
        versions.promote(next(iter(releases.values())), by="bench", why="first")
        with _gateway(how.streams) as gateway:
            arms = [Arm(name=SERVER, port=bare.port, pid=bare.pid, model=MODEL), *_of(gateway, releases),
                    Arm(name=PEER, port=peer.port, pid=peer.pid, model=MODEL, key_env=KEY_ENV)]
            print(f"\nIn front of the same server, one process each: gateway and LiteLLM {peer.version}, {how.streams} users")
            both = _both(arms, how)
            rates = _rates(both, PEER)
            output, pause = SHORT_TOKENS * 4, 20 * FAST_STEP_S
            seen = _rounds(arms, how.rounds, lambda arm, number: paced(
                arm, streams=streams, count=max(1, how.requests // 8), output=output, step_s=pause, seed=number))
    rate = streams / (output * pause)
    print(f"\nPaced at {rate:.1f} streams/s of {output} tokens each, the same for all")
    delays = {name: _delays(name, loads, seen[SERVER]) for name, loads in seen.items()}
    least = min(ratio(both[kind][BEFORE], both[kind][PEER], _requests_per_s).value for kind in both)
    less = delays[BEFORE]["added_p50_s"]["median"] < delays[PEER]["added_p50_s"]["median"]
    reached = bool(least >= LEAST_RATIO and less)
    print(f"At least {LEAST_RATIO:g} times its requests/s ({least:.1f}) at less delay: {'yes' if reached else 'NO'}")
    return {"version": peer.version, "saturated": rates, "paced": delays, "least_ratio": least, "reached": reached}


def _both(arms: Sequence[Arm], how: _How) -> dict[str, Seen]:
    def many(arm: Arm) -> int:
        return max(how.streams, how.burst // (PEER_SHARE if arm.name == PEER else 1))

    return {"short": _rounds(arms, how.rounds, lambda arm, _: saturated(
                arm, users=how.streams, count=many(arm), output=SHORT_TOKENS, stream=False)),
            "streams": _rounds(arms, how.rounds, lambda arm, _: saturated(
                arm, users=how.streams, count=max(how.streams, many(arm) // 4), output=how.output, stream=True))}


def _rates(both: Mapping[str, Seen], base: str) -> dict[str, Any]:
    """Requests/s of short answers and tokens/s of streams, by the clock and by CPU time, and ratios to the arm `base`."""
    found: dict[str, Any] = {}
    for kind, unit, per_s, per_cpu_s in (("short", "requests", _requests_per_s, _requests_per_cpu_s),
                                         ("streams", "tokens", _tokens_per_s, _tokens_per_cpu_s)):
        for name, loads in both[kind].items():
            fast, cheap = (ratio(loads, both[kind][base], figure) for figure in (per_s, per_cpu_s))
            clock, cpu = (float(np.median([figure(load) for load in loads])) for figure in (per_s, per_cpu_s))
            found.setdefault(name, {})[kind] = {f"{unit}_per_s": clock, f"{unit}_per_cpu_s": cpu, "ratio": _json(fast),
                                                "cpu_ratio": _json(cheap)}
            print(f"{name:28}{kind:8}{clock:9,.0f} {unit}/s, {cpu:9,.0f} per CPU second   to {base}: "
                  f"{_times(fast)}, per CPU second {_times(cheap)}", flush=True)
    return found


def _requests_per_s(load: Load) -> float:
    return len(load.ttft_s) / load.seconds


def _requests_per_cpu_s(load: Load) -> float:
    return len(load.ttft_s) / load.cpu_s


def _tokens_per_s(load: Load) -> float:
    return load.tokens / load.seconds


def _tokens_per_cpu_s(load: Load) -> float:
    return load.tokens / load.cpu_s


def _rounds(arms: Sequence[Arm], rounds: int, measure: Callable[[Arm, int], Load]) -> Seen:
    """All arms once a round, every other round backwards."""
    seen: Seen = {arm.name: [] for arm in warmed(arms)}
    for number in range(rounds):
        for arm in arms[:: -1 if number % 2 else 1]:
            seen[arm.name].append(measure(arm, number))
    return seen


@contextmanager
def _arms(releases: Mapping[str, int], streams: int, step_s: float) -> Iterator[list[Arm]]:
    """The bare server and one gateway process that answers with each of the releases in turn."""
    versions.promote(next(iter(releases.values())), by="bench", why="first")
    with closing(_server(streams, step_s)) as bare, _gateway(streams) as gateway:
        yield [Arm(name=SERVER, port=bare.port, pid=bare.pid, model=MODEL), *_of(gateway, releases)]


def _of(gateway: gateways.Child, releases: Mapping[str, int]) -> list[Arm]:
    return [Arm(name=name, port=gateway.port, pid=gateway.pid, model="production", release=number)
            for name, number in releases.items()]


def _server(streams: int, step_s: float) -> Child:
    return Child(MODEL, ServeSettings(engine="scripted", step_ms=1e3 * step_s, reply=REPLY, max_running=min(128, 2 * streams),
                                      queue=4 * streams, context_tokens=1024 * streams))


def _gateway(streams: int) -> gateways.Child:
    return gateways.Child("--processes", "1", "--running", str(min(128, 2 * streams)), "--queue", str(4 * streams))


class _Releases:
    """Makes releases of the bench's store; each call gives a number."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def __call__(self, step_s: float | None, *, policy: str = "", prompt: str = PROMPT, model: str = MODEL) -> int:
        """With `step_s` a scripted engine in the process, without one the server at `model`."""
        words, none = self._home / "prompt.txt", self._home / "none.yaml"
        words.write_text(prompt)
        none.write_text(NO_RULES)
        engine: dict[str, Any] = {} if step_s is None else {"tpot_s": step_s, "context_tokens": 65_536, "reply": REPLY}
        return versions.create(prompt=str(words), model=model, engine="server" if step_s is None else "scripted", by="bench",
                               policy=policy or str(none), engine_settings=engine).release.number


def first_text(reply: str, policy: str = "default") -> int:
    """With which letter of `reply`, pushed one by one, a policy lets the first text go (from 1); its length if with none."""
    flow = Chain(load_policy(policy)).flow()
    return next((i for i, letter in enumerate(reply, 1) if flow.push(letter)), len(reply))


def _json(estimate: Estimate) -> dict[str, float]:
    return {"median": estimate.value, "low": estimate.low, "high": estimate.high}


def _ms(estimate: Estimate) -> str:
    return f"{1e3 * estimate.value:+.2f} ms ({1e3 * estimate.low:+.2f} to {1e3 * estimate.high:+.2f})"


def _times(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
