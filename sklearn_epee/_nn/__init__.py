"""What runs on torch: backbones, the multi-exit network, its training and its engine."""

from . import forks as forks  # forked processes are prepared from here on
