# The commands of CI (.ci/run), one by one.
.PHONY: install quickstart test quick lint types house all

install:      ## the package with what tests and checks need
	python -m pip install -e ".[dev]"

quickstart:   ## train and use a text and an image classifier, without a download
	python examples/quickstart.py

test:         ## all tests
	python -m pytest

quick:        ## tests without the slow ones
	python -m pytest -m "not slow"

lint:
	ruff format --check .
	ruff check .

types:
	mypy

house:        ## modules, lengths of functions, imports between rooms
	python tools/house.py

all: test lint types quickstart
