"""Everything that imports torch: backbones, network, training, engine and store."""

from . import forks as forks  # forked processes are prepared from here on
