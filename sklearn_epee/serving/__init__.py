"""Asynchronous prediction of single requests, with continuous batching."""

from __future__ import annotations

from ._predictor import AsyncPredictor
from ._requests import Prediction, SentencePrediction
from ._statistics import Health, ServingStatistics

__all__ = ["AsyncPredictor", "Health", "Prediction", "SentencePrediction", "ServingStatistics"]
