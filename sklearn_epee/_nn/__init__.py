"""Everything that runs on torch: backbones, the multi-exit network, training and inference."""

from . import forks as forks  # forked processes are prepared from here on
