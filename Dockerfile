# One image for worker, Flower, exporter and commands. Gateways need none: they install the package.

FROM python:3.13-slim AS build
RUN python -m venv /opt/hermes-tasks
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY hermes_tasks hermes_tasks
RUN /opt/hermes-tasks/bin/pip install --no-cache-dir --constraint constraints.txt \
    '.[worker,flower,metrics,otel,encryption]'

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home --home-dir /srv hermes-tasks
COPY --from=build /opt/hermes-tasks /opt/hermes-tasks
ENV PATH=/opt/hermes-tasks/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

# Found by a worker where it starts; mount your own over it.
WORKDIR /srv
COPY celeryconfig.py ./

# A number, so that Kubernetes sees that it is not root.
USER 10001
# Celery's warm shutdown: what is being written is finished.
STOPSIGNAL SIGTERM
CMD ["celery", "-A", "hermes_tasks", "worker", "--pool", "threads", "--concurrency", "32", "--loglevel", "INFO"]
