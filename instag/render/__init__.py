"""Drawing: the only importer of the rasterizer, and the compositing of the layers."""
