"""Pictures as pure functions: first person by ray casting (`raycast`), flat shapes and text (`raster`)."""
