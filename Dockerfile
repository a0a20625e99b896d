# MoEverse as a Docker Space or on any host: `docker build -t moeverse . && docker run -p 7860:7860 moeverse`.
# At run time it needs no network: the weights are in the image.
FROM python:3.11-slim-bookworm

COPY packages.txt /tmp/packages.txt
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive xargs -a /tmp/packages.txt apt-get install -y --no-install-recommends \
    && rm -rf /var/lib/apt/lists/*

# A Space runs its container as user 1000.
RUN useradd -m -u 1000 user
USER user
ENV HOME=/home/user \
    PATH=/home/user/.local/bin:$PATH \
    PYTHONUNBUFFERED=1
WORKDIR /home/user/app

# PyTorch publishes its CPU builds in an index of its own. Pass its address here and the image is some 5 GB smaller:
# docker build --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL=""
COPY --chown=user requirements.txt constraints.txt ./
RUN pip install --no-cache-dir --user -r requirements.txt -c constraints.txt

COPY --chown=user . .

# HF_HUB_OFFLINE=0 (docker run -e) lets packs from the hub load.
ENV GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    GRADIO_ANALYTICS_ENABLED=False \
    HF_HUB_OFFLINE=1
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860/config', timeout=4)"]
CMD ["python", "app.py"]
