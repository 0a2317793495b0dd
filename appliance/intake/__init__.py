"""How a model comes into the catalog: from a file, a folder or a model hub, whole or not at all."""
