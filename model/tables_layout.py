"""Rows of the embedding tables that have a fixed meaning."""

PADDING_ROW = 0
UNKNOWN_ROW = 1
FIRST_ROW = 2
"""Row 0 is padding (zeros, never trained), row 1 unknown, the vocabulary starts at row 2."""
TWO_SIDED = ("untied", "projected")
"""Values of `ModelConfig.tables` with which a target's vector differs from a behavior's: each table holds both, behaviors first."""
