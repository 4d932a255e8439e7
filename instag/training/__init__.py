"""The one training loop and its stages."""
