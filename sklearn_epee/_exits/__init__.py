"""Exits on arrays: what metrics, model selection and plotting share; never torch."""
