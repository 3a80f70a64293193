"""Importers that turn an operator's published files into event tables."""
