"""Prediction for requests that come one by one, many at a time: an asynchronous predictor."""

from __future__ import annotations

from ._predictor import AsyncPredictor
from ._requests import Prediction, SentencePrediction
from ._statistics import Health, ServingStatistics

__all__ = ["AsyncPredictor", "Health", "Prediction", "SentencePrediction", "ServingStatistics"]
