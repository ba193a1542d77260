"""The pluggable stages of a model: search -> encoder? -> pooling -> head, plus objectives (docs/stages.md)."""
