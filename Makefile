# The commands of CI (.ci/run), one by one.
.PHONY: install quickstart test quick lint types structure docs pages all

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

structure:    ## modules, lengths of functions, imports between components
	python tools/structure.py

docs:         ## the site, every script of the gallery run; "python -m pip install -e .[docs]" first
	python -m sphinx -W --keep-going -b html docs docs/_build/html
	python tools/check_site.py docs/_build/html

pages:        ## the site in half a minute, without running scripts
	python -m sphinx -W --keep-going -D plot_gallery=0 -b html docs docs/_build/html
	python tools/check_site.py docs/_build/html

all: test docs lint types quickstart
