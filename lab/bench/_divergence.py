"""The divergence of two model files and its peak memory, in a process of its own that imports nothing else.

`python -m lab.bench._divergence BASE OTHER CHUNKS` prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from lab import data
from lab.engines import open_engine
from lab.machine import Watch
from lab.metrics import perplexity
from lab.metrics.divergence import BaseLogits, Divergence


def main(base: str, other: str, chunks: int) -> dict[str, float | str]:
    """Read the text on `base`, then on `other`, as the quantization experiment does; bytes, nats and seconds."""
    with tempfile.TemporaryDirectory() as folder, BaseLogits(Path(folder)) as kept:
        against = Divergence(kept)
        with Watch() as watch:
            for path, each in ((base, kept.keep), (other, against.add)):
                engine = open_engine("llama_cpp", path)
                tokens = perplexity.tokens_for(engine, data.text("pydoc-topics"))
                perplexity.measure(engine, tokens, limit=chunks, each=each)
                engine.close()
        seen = watch.result
        return {"peak_memory_bytes": seen.peak_rss_bytes, "peak_source": seen.peak_source, "seconds": seen.wall_s,
                "kl_mean": float(against.kl.mean()), "same_top_share": float(against.same_top.mean())}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
