"""The worlds: six domains of rendered clips with captions, the data of every model of the project."""

from training.worlds.attributes import DOMAINS, SceneAttributes, held_out, sample
from training.worlds.captions import captions
from training.worlds.shards import read_shards

__all__ = ["DOMAINS", "SceneAttributes", "captions", "held_out", "read_shards", "sample"]
