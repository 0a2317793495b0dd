"""The HTTP API: Flask blueprints over the pipeline. See README.md in this folder."""
