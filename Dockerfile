# A worker, and with another command Flower. Gateways need no image: they install the package.
FROM python:3.13-slim

RUN useradd --system --create-home --uid 10001 worker
WORKDIR /srv

COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY hermes_tasks hermes_tasks
RUN pip install --no-cache-dir --constraint constraints.txt '.[worker,flower]' && rm -rf hermes_tasks

# Found by the worker where it starts; mount your own over it.
COPY celeryconfig.py ./

USER worker
# Celery's warm shutdown: what is being written is finished.
STOPSIGNAL SIGTERM
CMD ["celery", "-A", "hermes_tasks", "worker", "--loglevel", "INFO"]
