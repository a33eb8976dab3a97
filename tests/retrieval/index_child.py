"""Indexes a folder in its own process, to be killed: python -m tests.retrieval.index_child TALKS INDEX CLIPS."""

import sys
import time
from pathlib import Path

import numpy as np

from modeling_clsr.retrieval import SpeechIndex, index

from .known_clips import KnownClips

BATCH_S = 0.05  # of a batch, so that a kill meets every part of the work


class SlowClips(KnownClips):
    def encode_passages(self, waveforms):
        time.sleep(BATCH_S)
        return super().encode_passages(waveforms)


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main(talks: str, folder: str, clips: str) -> None:
    stored = np.load(clips)
    encoder = SlowClips({name: stored[name] for name in stored.files})
    opener = SpeechIndex.open if Path(folder).is_dir() else SpeechIndex.create
    index.COMMIT_S = 0.0  # a commit for every recording
    opened = opener(folder, encoder)
    say("begun")
    opened.add([talks], batch_size=1)
    say("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
