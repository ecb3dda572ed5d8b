"""Visual tokenizers."""
