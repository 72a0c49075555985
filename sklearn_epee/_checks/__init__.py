"""Validate and encode input without torch: samples, labels, tasks, arguments."""
