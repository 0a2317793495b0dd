"""An AI serving appliance for boxes without a GPU. Nothing of it, nor of the libraries it uses, calls home."""

import os

# ONNX Runtime (1.32 on Linux) makes itself a device number and sends what it is used for to its maker, unless this is there before it is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
