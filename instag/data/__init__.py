"""Subject data: the layout on disk, frames in memory, sampling."""
