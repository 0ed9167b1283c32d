# The default test run is `pytest`; these are the long ones.
.PHONY: test lint docs torture fuzz bench

test:
	pytest

lint:
	ruff check .
	ruff format --check .
	mypy
	lint-imports

docs:
	mkdocs build --strict

torture:
	EMBSYNC_ABUSE_SECONDS=$${EMBSYNC_ABUSE_SECONDS:-3600} pytest -m torture -n0 --timeout=3600

fuzz:
	pytest -m fuzz -n0 --timeout=3600

bench:
	python benchmarks/roofline.py
	python benchmarks/publish.py
	python benchmarks/parent_hash.py
	python benchmarks/delivery.py
	python benchmarks/rotation.py
	python benchmarks/parquet_read.py
	python benchmarks/formats.py
	python benchmarks/fold_in.py
	python benchmarks/reading.py
	python benchmarks/serving.py
	python benchmarks/daemon.py
