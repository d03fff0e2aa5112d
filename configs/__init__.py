"""Data only: chips, memories, models, technologies."""
