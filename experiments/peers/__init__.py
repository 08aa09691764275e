"""The same work done with other libraries, to stand beside ours. Nothing here is imported by `vldac`."""
